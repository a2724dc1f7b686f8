"""`cluttered_digits`: a data set that needs no download.

scikit-learn's 1,797 handwritten digits (8 x 8 px), placed many times on 32 x 32
px at a random position, size and colour, over a smooth coloured background and
fragments of other digits. Only the shape of the whole digit tells the class;
everything else is independent of it. No digit is in both splits, not even as a
fragment. Masks have the class of the whole digit plus one, and 0 elsewhere.
"""

import functools

import numpy as np
from jaxtyping import Bool, Float, UInt8
from sklearn import datasets, model_selection

from jssl.data.source import SegmentedInMemory

IMAGE_SIZE_PX = 32
TRAIN_IMAGES = 20_000
TEST_IMAGES = 4_000

_SEED = 0
_TEST_FRACTION = 0.2
_DIGIT_SIZE_PX = (14.0, 26.0)
_FRAGMENT_SIZE_PX = (10.0, 20.0)
_FRAGMENTS = 3
# A fragment is a window of 4 x 4 of the 8 x 8 samples of another digit.
_FRAGMENT_SAMPLES = 4
_BACKGROUND_SAMPLES = 4
# Digits are brighter than the background and legible.
_DIGIT_COLOUR = (0.6, 1.0)
_FRAGMENT_COLOUR = (0.0, 1.0)
_BACKGROUND_COLOUR = (0.0, 0.6)
# Strokes of the scanned digits fade out; this makes their centre opaque.
_OPACITY = 1.2
# Opacity from which a pixel belongs to the digit in masks.
_MASK_OPACITY = 0.5
# Number of images that fit into the processor's cache.
_CHUNK_SIZE = 100

_Floats = Float[np.ndarray, "n"]
_Glyphs = Float[np.ndarray, "n 8 8"]
_Canvas = Float[np.ndarray, "n h w c"]


def _interpolation(
  start_px: _Floats, size_px: _Floats, samples: int
) -> Float[np.ndarray, "n out in"]:
  """Returns matrices that stretch `samples` over an interval of pixels.

  Bilinear: sample j has weight max(0, 1 - |u - j|) in a pixel whose centre is
  at u, in samples. Pixels outside the interval get 0.
  """
  centre = np.arange(IMAGE_SIZE_PX) + 0.5
  u = (centre - start_px[:, None]) / size_px[:, None] * samples - 0.5
  weights = 1.0 - np.abs(u[:, :, None] - np.arange(samples))
  return np.maximum(weights, 0.0).astype(np.float32)


def _opacity(
  rng: np.random.Generator, glyphs: _Glyphs, size_px: tuple[float, float]
) -> _Canvas:
  """Places each glyph whole at a random position; `size_px` is a range."""
  size = rng.uniform(*size_px, len(glyphs))
  top, left = rng.uniform(0.0, IMAGE_SIZE_PX - size, (2, len(glyphs)))
  rows = _interpolation(top, size, glyphs.shape[1])
  columns = _interpolation(left, size, glyphs.shape[2])
  placed = rows @ glyphs @ columns.swapaxes(1, 2)
  return np.minimum(_OPACITY * placed, 1.0)[..., None]


def _fragments(rng: np.random.Generator, glyphs: _Glyphs) -> _Glyphs:
  """Sets each glyph to 0 outside a random square window."""
  samples = glyphs.shape[1]
  start = rng.integers(0, samples - _FRAGMENT_SAMPLES + 1, (2, len(glyphs), 1))
  offset = np.arange(samples) - start
  rows, columns = (offset >= 0) & (offset < _FRAGMENT_SAMPLES)
  return glyphs * (rows[:, :, None] & columns[:, None, :])


def _colours(
  rng: np.random.Generator, between: tuple[float, float], *shape: int
) -> _Canvas:
  low, high = between
  return low + (high - low) * rng.random((*shape, 3), np.float32)


def _backgrounds(rng: np.random.Generator, number: int) -> _Canvas:
  """Interpolates a few random colours over each image."""
  samples = _BACKGROUND_SAMPLES
  colours = _colours(rng, _BACKGROUND_COLOUR, number, samples, samples)
  # The outermost samples are on the edge, so that no side fades to black.
  size = IMAGE_SIZE_PX * samples / (samples - 1)
  start = np.array([(IMAGE_SIZE_PX - size) / 2])
  stretch = _interpolation(start, np.array([size]), samples)
  planes = stretch @ np.moveaxis(colours, 3, 1) @ stretch.swapaxes(1, 2)
  return np.moveaxis(planes, 1, 3)


def _render(
  rng: np.random.Generator,
  glyphs: _Glyphs,
  others: Float[np.ndarray, "m 8 8"],
) -> tuple[UInt8[np.ndarray, "n h w c"], Bool[np.ndarray, "n h w"]]:
  """Draws one image for each glyph, with fragments of `others`.

  Returns:
    The images, and True for the pixels of the glyphs.
  """
  number = len(glyphs)
  image = _backgrounds(rng, number)
  for _ in range(_FRAGMENTS):
    chosen = others[rng.integers(len(others), size=number)]
    opacity = _opacity(rng, _fragments(rng, chosen), _FRAGMENT_SIZE_PX)
    image += opacity * (_colours(rng, _FRAGMENT_COLOUR, number, 1, 1) - image)
  opacity = _opacity(rng, glyphs, _DIGIT_SIZE_PX)
  image += opacity * (_colours(rng, _DIGIT_COLOUR, number, 1, 1) - image)
  mask = opacity[..., 0] >= _MASK_OPACITY
  return np.rint(255 * image).astype(np.uint8), mask


@functools.cache
def cluttered_digits(split: str = "train") -> SegmentedInMemory:
  """Returns the 20,000 images of "train" or the 4,000 of "test"."""
  if split not in ("train", "test"):
    raise ValueError(
      f"cluttered_digits has the splits train and test, not {split!r}"
    )
  digits = datasets.load_digits()
  train, test = model_selection.train_test_split(
    np.arange(len(digits.target)),
    test_size=_TEST_FRACTION,
    stratify=digits.target,
    random_state=_SEED,
  )
  rows = train if split == "train" else test
  number = TRAIN_IMAGES if split == "train" else TEST_IMAGES
  # Each digit of the split is placed equally often, up to one.
  placed = np.resize(rows, number)
  glyphs = (digits.images / digits.images.max()).astype(np.float32)
  rng = np.random.default_rng([_SEED, len(rows)])
  chunks = np.array_split(placed, number // _CHUNK_SIZE)
  drawn = [_render(rng, glyphs[chunk], glyphs[rows]) for chunk in chunks]
  images, masks = map(np.concatenate, zip(*drawn, strict=True))
  labels = digits.target[placed].astype(np.int32)
  class_names = tuple(str(name) for name in digits.target_names)
  classes = np.where(masks, 1 + labels[:, None, None], 0).astype(np.int8)
  return SegmentedInMemory(
    name="cluttered_digits",
    class_names=class_names,
    images=images,
    labels=labels,
    fetch_masks=classes.__getitem__,
  )
