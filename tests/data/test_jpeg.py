"""Squares of JPEG files are those of pillow, whatever decodes them."""

import concurrent.futures
import io

import numpy as np
import pytest
from PIL import Image

from jssl.data import image as image_lib
from jssl.data import jpeg
from jssl.data.decode import decode


def drawing(width, height, mode="RGB"):
  """A smooth image with some noise."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (5, 7, 3), np.uint8)
  smooth = Image.fromarray(coarse).resize((width, height), 3)
  pixels = np.asarray(smooth) + rng.normal(0, 6, (height, width, 3))
  pixels = pixels.clip(0, 255).astype(np.uint8)
  return Image.fromarray(pixels).convert(mode)


def encode(image, **options):
  file = io.BytesIO()
  image.save(file, "JPEG", **{"quality": 90, **options})
  return file.getvalue()


def psnr(found, expected):
  error = np.mean((found.astype(float) - expected) ** 2)
  return 10 * np.log10(255**2 / error) if error else np.inf


def exact(encoded, size_px, mode):
  """Pillow's antialiased resize of floats, after a decoder of full size."""
  pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert(mode), np.float32)
  height, width = pixels.shape[:2]
  side = min(height, width)
  left, top = (width - side) / 2, (height - side) / 2
  taps = "BILINEAR" if side > size_px else "BICUBIC"
  resized = [
    Image.fromarray(plane).resize(
      (size_px, size_px),
      Image.Resampling[taps],
      box=(left, top, left + side, top + side),
    )
    for plane in np.moveaxis(np.atleast_3d(pixels), 2, 0)
  ]
  return np.stack([np.asarray(plane) for plane in resized], 2).clip(0, 255)


@pytest.mark.parametrize(
  "size", [(50, 37), (37, 50), (64, 64), (33, 90), (20, 31), (127, 128)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_squares_are_resized_as_by_pillow(size, channels):
  encoded = encode(drawing(*size))
  found = decode(encoded, size_px=32, channels=channels)
  assert jpeg.decode_square(encoded, size_px=32, channels=channels) is not None
  expected = exact(encoded, 32, image_lib.MODES[channels])
  assert psnr(found, expected) > 53  # An error of rounding alone is 59.
  if min(size) > 32:
    # Also about as the sharper filter of other formats.
    square = image_lib.square(encoded, image_lib.MODES[channels], 32)
    assert psnr(found, np.atleast_3d(np.asarray(square))) > 36


@pytest.mark.parametrize("size", [(128, 128), (300, 201), (900, 1200)])
def test_large_images_are_decoded_smaller(size, monkeypatch):
  encoded = encode(drawing(*size))
  shapes = []

  def noted(*args, decode_jpeg=jpeg.simplejpeg.decode_jpeg, **options):
    pixels = decode_jpeg(*args, **options)
    shapes.append(pixels.shape)
    return pixels

  monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", noted)
  found = decode(encoded, size_px=32, channels=3)
  (shape,) = shapes
  assert 64 <= min(shape[:2]) < min(size)
  assert psnr(found, exact(encoded, 32, "RGB")) > 36


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_the_size_are_those_of_pillow(
  mode, subsampling, progressive, channels
):
  encoded = encode(
    drawing(48, 48, mode), subsampling=subsampling, progressive=progressive
  )
  found = decode(encoded, size_px=48, channels=channels)
  own = image_lib.MODES[channels]
  square = np.asarray(image_lib.square(encoded, own, 48))
  np.testing.assert_array_equal(found, np.atleast_3d(square))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colours(mode):
  encoded = encode(drawing(50, 37, mode))
  found = decode(encoded, size_px=32, channels=3)
  assert psnr(found, exact(encoded, 32, "RGB")) > 36


@pytest.mark.parametrize("channels", [1, 3])
def test_damage_is_told_as_by_pillow(channels):
  encoded, damage = encode(drawing(50, 37)), "(?i)truncated|identify"
  for cut in (encoded[: len(encoded) // 2], encoded[:30], encoded[:2]):
    with pytest.raises(OSError, match=damage) as by_pillow:
      image_lib.square(cut, image_lib.MODES[channels], 32)
    with pytest.raises(OSError, match=damage) as found:
      decode(cut, size_px=32, channels=channels)
    assert type(found.value) is type(by_pillow.value)


def test_number_of_pixels_is_limited(monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  with pytest.raises(Image.DecompressionBombError, match="1850 pixels"):
    decode(encode(drawing(50, 37)), size_px=32, channels=3)


def test_orientation_in_either_kind_of_metadata():
  drawn = drawing(50, 37)
  exif = Image.Exif()
  exif[0x0112] = 6
  xmp = b'<x tiff:Orientation="6"/>'
  icc = b"\xff\xe1\xff\xda" * 100
  upright = encode(drawn, icc_profile=icc)
  assert not jpeg.has_metadata(upright)
  expected = np.rot90(decode(upright, size_px=32, channels=3), -1)
  for options in ({"exif": exif}, {"xmp": xmp}):
    encoded = encode(drawn, icc_profile=icc, **options)
    assert jpeg.has_metadata(encoded)
    found = decode(encoded, size_px=32, channels=3)
    np.testing.assert_array_equal(found, expected)


def test_threads_have_memory_of_their_own():
  files = [encode(drawing(300 + i, 200 + i)) for i in range(8)]

  def square(encoded):
    return decode(encoded, size_px=32, channels=3)

  expected = [square(encoded) for encoded in files]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(square, files * 10))
  np.testing.assert_array_equal(found, expected * 10)
