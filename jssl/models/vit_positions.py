"""Positions of patches: embeddings and rotations (RoPE)."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jssl import rng
from jssl.typing import Keys

Interpolation = Literal["bicubic", "dino", "antialias", "size"]

_ROPE_BASE = 100.0


def sincos_positions(
  rows: int, columns: int, width: int, *, column_first: bool = False
) -> Float[np.ndarray, "n d"]:
  """Returns fixed position embeddings of a grid, [rows * columns, width].

  Sine and cosine of row and column take a quarter of the dimensions each, at
  geometric frequencies from 1 down to 1/10000. Positions count patches, so a
  smaller grid has a subset of the positions of a larger one. Row comes first
  (MoCo v3), or column (MAE and I-JEPA).
  """
  if width % 4:
    raise ValueError(f"model.width={width} must be a multiple of 4")
  frequencies = 10000.0 ** -np.linspace(0, 1, width // 4, endpoint=False)
  y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1) * frequencies
  first, last = (x, y) if column_first else (y, x)
  return np.concatenate(
    [f(angle) for angle in (first, last) for f in (np.sin, np.cos)], axis=1
  )


def resized_positions(
  learned: Float[Array, "h w d"],
  rows: int,
  columns: int,
  interpolation: Interpolation = "bicubic",
) -> Float[Array, "n d"]:
  """Returns learned position embeddings for a grid, [rows * columns, d].

  Other grids are interpolated bicubically (Keys' kernel) between patch centres.

  Args:
    learned: embeddings of the grid of `init`.
    rows: number of rows of the grid.
    columns: number of columns of the grid.
    interpolation: "bicubic" (a = -1/2, weights renormalised at the edges);
      "antialias" (the same, with a wider kernel for smaller grids: timm, DINOv2
      with registers); "size" (a = -3/4, edges repeated: MAE, Hugging Face);
      "dino" (the same, sampled as for 0.1 more rows and columns: DINO, DINOv2).
  """
  old, shape = learned.shape, (rows, columns, learned.shape[-1])
  # PyTorch has a = -1/2 with antialiasing and a = -3/4 without.
  if old == shape:
    resized = learned
  elif interpolation == "dino":
    scale = jnp.array([(rows + 0.1) / old[0], (columns + 0.1) / old[1]])
    resized = jax.image.scale_and_translate(
      learned,
      shape,
      (0, 1),
      scale,
      jnp.zeros(2),
      method="cubic-pytorch",
      antialias=False,
    )
  else:
    method = "cubic-pytorch" if interpolation == "size" else "cubic"
    antialias = interpolation == "antialias"
    resized = jax.image.resize(learned, shape, method, antialias)
  return resized.reshape(-1, shape[-1])


def rope_coordinates(rows: int, columns: int) -> Float[np.ndarray, "n 2"]:
  """Returns row and column of patch centres, each within [-1, 1]."""
  y, x = (2 * (np.arange(n) + 0.5) / n - 1 for n in (rows, columns))
  return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


def augmented_coordinates(
  keys: Keys,
  coordinates: Float[Array, "n 2"],
  *,
  shift: float,
  jitter: float,
  rescale: float,
) -> Float[Array, "b n 2"]:
  """Draws coordinates for each image, as in the training of DINOv3.

  The draw for an image depends only on its key.

  Args:
    keys: one key per image.
    coordinates: those of `rope_coordinates`.
    shift: largest shift of each axis; uniform.
    jitter: largest factor of each axis; log-uniform in [1 / jitter, jitter].
    rescale: largest factor of both axes; log-uniform.
  """

  def of_image(key: jax.Array) -> Float[Array, "n 2"]:
    def draw(name: str, axes: int) -> Float[Array, "1 axes"]:
      own = rng.stream(key, name)
      return jax.random.uniform(own, (1, axes), jnp.float32, -1, 1)

    moved = coordinates + shift * draw("rope_shift", 2)
    factors = jitter ** draw("rope_jitter", 2)
    return moved * factors * rescale ** draw("rope_rescale", 1)

  return jax.vmap(of_image)(keys)


def rope_rotations(
  coordinates: Float[Array, "b n 2"], head_dim: int
) -> Float[Array, "2 b n e"]:
  """Returns cosines and sines of the angles of RoPE as in DINOv3.

  The angles are 2 pi y / p_i, then 2 pi x / p_i, and both again; the periods
  are p_i = 100^(4 i / head_dim), i < head_dim / 4.
  """
  exponents = 4 / head_dim * np.arange(head_dim // 4)
  frequencies = jnp.asarray(
    2 * math.pi * _ROPE_BASE**-exponents, coordinates.dtype
  )
  angles = coordinates[..., None] * frequencies.reshape(1, 1, 1, -1)
  angles = jnp.tile(angles.reshape(*coordinates.shape[:2], -1), (1, 1, 2))
  return jnp.stack([jnp.cos(angles), jnp.sin(angles)])


def rotated(
  x: Float[Array, "b n k e"], rotations: Float[Array, "2 _b n e"]
) -> Float[Array, "b n k e"]:
  """Rotates pairs of dimensions i and i + e/2 of each head."""
  cos, sin = rotations[:, :, :, None]
  first, second = jnp.split(x, 2, axis=-1)
  turned = jnp.concatenate([-second, first], axis=-1)
  return (x * cos + turned * sin).astype(x.dtype)
