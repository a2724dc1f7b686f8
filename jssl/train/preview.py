"""Pictures of the views that a run sees."""

import jax
import numpy as np
from jaxtyping import UInt8

from jssl import rng
from jssl.augment import views
from jssl.config.schema import Config
from jssl.data.source import Source
from jssl.pixels import to_picture

_SEED = 0


def augmented(
  config: Config, source: Source, *, images: int, num_views: int
) -> tuple[UInt8[np.ndarray, "b h w c"], UInt8[np.ndarray, "v b crop crop c"]]:
  """Returns pictures of training images and of their large views of step 0.

  If views have different probabilities, the requested ones cycle through them.

  Raises:
    ValueError, TypeError: if the config is invalid.
  """
  rows = np.random.default_rng(_SEED).choice(
    len(source), min(images, len(source)), replace=False
  )
  pixels = source.fetch(rows)["image"]
  root = rng.root(config.seed)
  keys = rng.per_row(rng.stream(root, "augment"), len(rows))
  augment = config.augment.of_large_views(num_views)
  draw = jax.jit(
    lambda keys, pixels: views(augment, keys, pixels, num_views)[0],
    # Optimising would take longer than it saves for a few images.
    compiler_options={"xla_backend_optimization_level": 0},
  )
  drawn = draw(keys, pixels)
  shown = [to_picture(view, stored=pixels) for view in drawn]
  return to_picture(pixels), np.stack(shown)


def views_sheet(config: Config, source: Source) -> UInt8[np.ndarray, "h w c"]:
  """Returns four views, in rows, of each of eight training images."""
  return sheet(augmented(config, source, images=8, num_views=4)[1])


def sheet(
  rows: UInt8[np.ndarray, "r b h w c"], *, gap_px: int = 2
) -> UInt8[np.ndarray, "height width c"]:
  """Returns one image of rows of images, with white gaps."""
  gaps = ((0, 0), (0, 0), (0, gap_px), (0, gap_px), (0, 0))
  padded = np.pad(rows, gaps, constant_values=255)
  whole = np.concatenate(np.concatenate(padded, axis=1), axis=1)
  return whole[:-gap_px, :-gap_px]
