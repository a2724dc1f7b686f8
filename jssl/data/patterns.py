"""`patterns`: a generated data set that needs no download.

Ten periodic patterns, such as rings or bricks, on 32 x 32 px. The class is the
pattern. Angle, period, offset, both colours, light and noise are random and
independent of the class, so that two images of a class share few pixels. All
images of both splits are drawn independently.
"""

import functools

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from jssl.data.source import InMemory

IMAGE_SIZE_PX = 32
TRAIN_IMAGES = 20_000
TEST_IMAGES = 4_000

_PERIOD_PX = (6.0, 12.0)
# Least difference of the mean of both colours.
_CONTRAST = 0.3
# Largest relative change of brightness towards an edge; deviation of the noise.
_SHADE, _NOISE = 0.2, 0.05
# Number of images that fit into the processor's cache.
_CHUNK_SIZE = 100

_Plane = Float[np.ndarray, "n h w"]
# Floats in [0, 1], or booleans.
_Share = Shaped[np.ndarray, "n h w"]


def _stripes(u: _Plane, v: _Plane) -> _Share:
  del v
  return 0.5 + 0.5 * np.sin(2 * np.pi * u)


def _checks(u: _Plane, v: _Plane) -> _Share:
  return (np.floor(2 * u) + np.floor(2 * v)) % 2


def _dots(u: _Plane, v: _Plane) -> _Share:
  return np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.3


def _rings(u: _Plane, v: _Plane) -> _Share:
  radius = np.hypot(u % 1 - 0.5, v % 1 - 0.5)
  return (radius > 0.22) & (radius < 0.42)


def _grid(u: _Plane, v: _Plane) -> _Share:
  return np.maximum(np.abs(u % 1 - 0.5), np.abs(v % 1 - 0.5)) > 0.36


def _zigzag(u: _Plane, v: _Plane) -> _Share:
  return (u + np.abs(v % 1 - 0.5)) % 1 < 0.5


def _waves(u: _Plane, v: _Plane) -> _Share:
  return _stripes(u + 0.3 * np.sin(2 * np.pi * v), v)


def _bricks(u: _Plane, v: _Plane) -> _Share:
  row = np.floor(2 * v)
  return ((2 * v) % 1 > 0.75) | ((u + 0.5 * (row % 2)) % 1 > 0.85)


def _crosses(u: _Plane, v: _Plane) -> _Share:
  a, b = np.abs(u % 1 - 0.5), np.abs(v % 1 - 0.5)
  return (np.minimum(a, b) < 0.12) & (np.maximum(a, b) < 0.38)


def _diamonds(u: _Plane, v: _Plane) -> _Share:
  return np.abs(u % 1 - 0.5) + np.abs(v % 1 - 0.5) < 0.36


# Shares of the second colour at coordinates in periods.
_PATTERNS = {
  "stripes": _stripes,
  "checks": _checks,
  "dots": _dots,
  "rings": _rings,
  "grid": _grid,
  "zigzag": _zigzag,
  "waves": _waves,
  "bricks": _bricks,
  "crosses": _crosses,
  "diamonds": _diamonds,
}


def _colours(
  rng: np.random.Generator, number: int
) -> tuple[Float[np.ndarray, "n 1 1 3"], Float[np.ndarray, "n 1 1 3"]]:
  """Draws pairs of colours until each has enough contrast."""
  pairs = rng.random((number, 2, 3))
  while (flat := np.ptp(pairs.mean(2), axis=1) < _CONTRAST).any():
    pairs[flat] = rng.random((flat.sum(), 2, 3))
  first, second = np.moveaxis(pairs[:, :, None, None], 1, 0)
  return first, second


def _render(
  rng: np.random.Generator, labels: Int[np.ndarray, "n"]
) -> UInt8[np.ndarray, "n h w c"]:
  """Draws one image for each label."""
  n, size = len(labels), IMAGE_SIZE_PX
  y, x = np.mgrid[:size, :size] - size / 2
  period = rng.uniform(*_PERIOD_PX, (n, 1, 1))
  angle = rng.uniform(0, 2 * np.pi, (n, 1, 1))
  shift = rng.random((2, n, 1, 1))
  u = (np.cos(angle) * x + np.sin(angle) * y) / period + shift[0]
  v = (np.cos(angle) * y - np.sin(angle) * x) / period + shift[1]
  share = np.zeros((n, size, size, 1))
  for label, pattern in enumerate(_PATTERNS.values()):
    rows = labels == label
    share[rows, ..., 0] = pattern(u[rows], v[rows])
  first, second = _colours(rng, n)
  image = first + share * (second - first)
  slope = rng.uniform(-2 * _SHADE, 2 * _SHADE, (2, n, 1, 1)) / size
  image *= (1 + slope[0] * x + slope[1] * y)[..., None]
  image += _NOISE * rng.normal(size=image.shape)
  return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


@functools.cache
def patterns(split: str = "train") -> InMemory:
  """Returns the 20,000 images of "train" or the 4,000 of "test"."""
  sizes = {"train": TRAIN_IMAGES, "test": TEST_IMAGES}
  if split not in sizes:
    raise ValueError(f"patterns has the splits train and test, not {split!r}")
  labels = np.resize(np.arange(len(_PATTERNS)), sizes[split]).astype(np.int32)
  rng = np.random.default_rng(list(split.encode()))
  chunks = np.array_split(labels, sizes[split] // _CHUNK_SIZE)
  return InMemory(
    name="patterns",
    class_names=tuple(_PATTERNS),
    images=np.concatenate([_render(rng, chunk) for chunk in chunks]),
    labels=labels,
  )
