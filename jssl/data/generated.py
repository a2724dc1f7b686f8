"""JPEGs that cost a decoder what photographs of ImageNet do.

Smoothed noise of equal contrast at every scale, as in photographs, and less of
it in colour than in brightness. Sizes are spread as ImageNet's: 500 x 375 px is
the most frequent, the mean is near it, and a few are several times as wide.
"""

import io
import pathlib

import numpy as np
from jaxtyping import Float
from PIL import Image

# Makes the mean file 110 kB, which is that of ImageNet's train split.
_QUALITY = 92
_CONTRAST = 14.0
_COLOUR = 0.4
# Width and height, and their share. The rest is spread over all sizes.
_FREQUENT = {
  (500, 375): 0.42,
  (375, 500): 0.13,
  (500, 333): 0.12,
  (333, 500): 0.04,
}
_SIDE_PX = (64, 3000)


def sizes_px(number: int, seed: int = 0) -> list[tuple[int, int]]:
  """Draws width and height of so many images.

  Args:
    number: of images.
    seed: of what is random.
  """
  rng = np.random.default_rng([seed, 0])
  frequent = list(_FREQUENT)
  chosen = rng.choice(
    len(frequent) + 1,
    number,
    p=[*_FREQUENT.values(), 1 - sum(_FREQUENT.values())],
  )
  # Geometric mean of the sides, and their ratio.
  sides = np.exp(rng.normal(np.log(330), 0.6, number))
  ratios = np.exp(rng.normal(0.15, 0.25, number) / 2)
  rest = np.clip(np.stack([sides * ratios, sides / ratios], 1), *_SIDE_PX)
  return [
    frequent[i] if i < len(frequent) else (round(width), round(height))
    for i, (width, height) in zip(chosen, rest, strict=True)
  ]


def _noise(
  rng: np.random.Generator, width: int, height: int, finest: int
) -> Float[np.ndarray, "h w"]:
  """Draws noise of the same contrast in each octave, down to `finest` px."""
  total = np.zeros((height, width), np.float32)
  spacing = finest
  while spacing < max(width, height):
    shape = (height // spacing + 2, width // spacing + 2)
    coarse = Image.fromarray(rng.standard_normal(shape, np.float32))
    fine = coarse.resize((width, height), Image.Resampling.BICUBIC)
    total += np.asarray(fine)
    spacing *= 2
  return total


def photo(rng: np.random.Generator, width: int, height: int) -> Image.Image:
  """Draws an image.

  Args:
    rng: source of all that is random.
    width: in pixels.
    height: in pixels.
  """
  light = _noise(rng, width, height, finest=1)
  # Halved by the JPEG itself, and smooth in photographs.
  blue, red = (_noise(rng, width, height, finest=4) for _ in range(2))
  planes = np.stack([light, _COLOUR * blue, _COLOUR * red], axis=2)
  pixels = np.clip(128 + _CONTRAST * planes, 0, 255).astype(np.uint8)
  return Image.frombytes("YCbCr", (width, height), pixels.tobytes())


def jpeg(rng: np.random.Generator, width: int, height: int) -> bytes:
  """Draws an image, see `photo`, as a JPEG file."""
  file = io.BytesIO()
  photo(rng, width, height).save(file, "JPEG", quality=_QUALITY)
  return file.getvalue()


def write(folder: pathlib.Path, number: int, seed: int = 0) -> None:
  """Writes JPEGs to a folder that is not there yet.

  Args:
    folder: where they go.
    number: of images.
    seed: of what is random.
  """
  folder.mkdir(parents=True)
  for i, size in enumerate(sizes_px(number, seed)):
    rng = np.random.default_rng([seed, 1, i])
    (folder / f"{i:06}.jpg").write_bytes(jpeg(rng, *size))
