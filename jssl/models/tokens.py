"""From images to the tokens of a vision transformer, and to one feature."""

import jax
import numpy as np
from jaxtyping import Array, Float

from jssl.typing import Images


def patches(images: Images, size: int) -> Float[Array, "b n p"]:
  """Cuts images into squares of `size` px: [b, h/size * w/size, size² c].

  A reshape, so that the embedding is one matrix product; as a convolution the
  same takes several times as long on a CPU.
  """
  b, h, w, c = images.shape
  grid = images.reshape(b, h // size, size, w // size, size, c)
  return grid.swapaxes(2, 3).reshape(b, -1, size * size * c)


def sincos_positions(
  rows: int, columns: int, width: int
) -> Float[np.ndarray, "n d"]:
  """Returns fixed positions of a grid of tokens, shape [rows * columns, d].

  A quarter of the dimensions each for sine and cosine of row and column, at
  frequencies from 1 down to 1/10000 in equal ratios. Rows and columns are
  counted in patches: a smaller grid has the first positions of a larger one,
  and is not stretched to its extent.

  Raises:
    ValueError: `width` is not a multiple of 4.
  """
  if width % 4:
    raise ValueError(f"model.width={width} must be a multiple of 4")
  frequencies = 10000.0 ** -np.linspace(0, 1, width // 4, endpoint=False)
  y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1) * frequencies
  return np.concatenate([np.sin(y), np.cos(y), np.sin(x), np.cos(x)], axis=1)


def resized_positions(
  learned: Float[Array, "h w d"], rows: int, columns: int
) -> Float[Array, "n d"]:
  """Returns learned positions for a grid of tokens, shape [rows * columns, d].

  On the grid that they were learned on they are used as they are. Any other
  grid is stretched over the extent of that one, by bicubic interpolation
  (Keys' kernel, a = -1/2) between the centres of patches and without
  antialiasing, as DINO does for its small crops (there a = -3/4).
  """
  d = learned.shape[-1]
  if learned.shape[:2] != (rows, columns):
    learned = jax.image.resize(
      learned, (rows, columns, d), method="bicubic", antialias=False
    )
  return learned.reshape(-1, d)


def pooled(x: Float[Array, "bn d"], tokens: int) -> Float[Array, "b d"]:
  """Returns the mean of the tokens of each image."""
  return x.reshape(-1, tokens, x.shape[-1]).mean(axis=1)
