"""Synthetic JPEGs that cost a decoder as much as photographs of ImageNet.

Smoothed noise of equal contrast at every scale, as in photographs, and with
less contrast in colour than in brightness. Sizes are distributed as ImageNet's:
500 x 375 px is the most frequent, and a few are several times as wide.
"""

import contextlib
import io
import pathlib
import sys

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float
from PIL import Image

from jssl.data import prepare
from jssl.data.folder import Options

# Gives files of 110 kB on average, as in ImageNet's train split.
_QUALITY = 92
_CONTRAST = 14.0
_COLOUR = 0.4
# Share of each (width, height). The rest is spread over all sizes.
_FREQUENT = {
  (500, 375): 0.42,
  (375, 500): 0.13,
  (500, 333): 0.12,
  (333, 500): 0.04,
}
_SIDE_PX = (64, 3000)


def sizes_px(number: int, seed: int = 0) -> list[tuple[int, int]]:
  """Draws (width, height) of images."""
  rng = np.random.default_rng([seed, 0])
  frequent, shares = list(_FREQUENT), list(_FREQUENT.values())
  chosen = rng.choice(len(shares) + 1, number, p=[*shares, 1 - sum(shares)])
  # Geometric mean of the sides, and their ratio.
  sides = np.exp(rng.normal(np.log(330), 0.6, number))
  ratios = np.exp(rng.normal(0.15, 0.25, number) / 2)
  rest = np.clip(np.stack([sides * ratios, sides / ratios], 1), *_SIDE_PX)
  return [
    frequent[i] if i < len(frequent) else (round(width), round(height))
    for i, (width, height) in zip(chosen, rest, strict=True)
  ]


def _noise(
  rng: np.random.Generator, width: int, height: int, finest_px: int
) -> Float[np.ndarray, "h w"]:
  """Draws noise of the same contrast in each octave down to `finest_px`."""
  total = np.zeros((height, width), np.float32)
  spacing = finest_px
  while spacing < max(width, height):
    shape = (height // spacing + 2, width // spacing + 2)
    coarse = Image.fromarray(rng.standard_normal(shape, np.float32))
    fine = coarse.resize((width, height), Image.Resampling.BICUBIC)
    total += np.asarray(fine)
    spacing *= 2
  return total


def jpeg(rng: np.random.Generator, width: int, height: int) -> bytes:
  """Draws an image and returns it as a JPEG file."""
  light = _noise(rng, width, height, finest_px=1)
  # JPEG halves the resolution of colour, and photographs are smooth in colour.
  blue, red = (_noise(rng, width, height, finest_px=4) for _ in range(2))
  planes = np.stack([light, _COLOUR * blue, _COLOUR * red], axis=2)
  pixels = np.clip(128 + _CONTRAST * planes, 0, 255).astype(np.uint8)
  image = Image.frombytes("YCbCr", (width, height), pixels.tobytes())
  file = io.BytesIO()
  image.save(file, "JPEG", quality=_QUALITY)
  return file.getvalue()


def write_photos(folder: pathlib.Path, images: int) -> None:
  """Draws JPEGs into a folder, which is made."""
  folder.mkdir(parents=True)
  for i, size in enumerate(sizes_px(images)):
    rng = np.random.default_rng([0, 1, i])
    (folder / f"{i:06}.jpg").write_bytes(jpeg(rng, *size))


def prepare_sets(root: pathlib.Path, images: int, stored_size_px: int) -> None:
  """Draws JPEGs into `root/photos/all` and prepares two sets in `root/data`.

  `photos` holds the files as they are, `photos_small` squares.
  """
  folder = root / "photos" / "all"
  write_photos(folder, images)
  tfds.disable_progress_bar()
  for name, size_px in (("photos", None), ("photos_small", stored_size_px)):
    with contextlib.redirect_stdout(sys.stderr):
      prepare.prepare(
        "folder",
        source=str(folder),
        set_name=name,
        data_dir=str(root / "data"),
        options=Options(stored_size_px=size_px),
      )
