"""Patches, position embeddings and pooling of vision transformers."""

import jax
import numpy as np
from jaxtyping import Array, Float

from jssl.typing import Images


def patches(images: Images, size: int) -> Float[Array, "b n p"]:
  """Cuts images into patches [b, h/size * w/size, size² c]."""
  # A reshape and one matrix product are several times as fast as a convolution
  # on CPU.
  b, h, w, c = images.shape
  grid = images.reshape(b, h // size, size, w // size, size, c)
  return grid.swapaxes(2, 3).reshape(b, -1, size * size * c)


def sincos_positions(
  rows: int, columns: int, width: int
) -> Float[np.ndarray, "n d"]:
  """Returns fixed position embeddings of a grid, [rows * columns, width].

  Sine and cosine of row and column take a quarter of the dimensions each, at
  geometric frequencies from 1 down to 1/10000. Positions count patches, so a
  smaller grid has a subset of the positions of a larger one.
  """
  if width % 4:
    raise ValueError(f"model.width={width} must be a multiple of 4")
  frequencies = 10000.0 ** -np.linspace(0, 1, width // 4, endpoint=False)
  y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1) * frequencies
  return np.concatenate([np.sin(y), np.cos(y), np.sin(x), np.cos(x)], axis=1)


def resized_positions(
  learned: Float[Array, "h w d"], rows: int, columns: int
) -> Float[Array, "n d"]:
  """Returns learned position embeddings for a grid, [rows * columns, d].

  Other grids are interpolated bicubically between patch centres (Keys' kernel,
  a = -1/2) without antialiasing, as DINO does for small crops (there a = -3/4).
  """
  d = learned.shape[-1]
  if learned.shape[:2] != (rows, columns):
    learned = jax.image.resize(
      learned, (rows, columns, d), method="bicubic", antialias=False
    )
  return learned.reshape(-1, d)


def pooled(x: Float[Array, "bn d"], tokens: int) -> Float[Array, "b d"]:
  """Returns the mean over the tokens of each image."""
  return x.reshape(-1, tokens, x.shape[-1]).mean(axis=1)
