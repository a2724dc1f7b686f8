"""Transparency, orientation and formats of image files."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import ExifTags, Image

from jssl.data import prepare
from jssl.data.decode import decode
from jssl.data.encode import Options
from jssl.data.open import open_source

RED, WHITE, BLUE = (255, 0, 0), (255, 255, 255), (0, 0, 255)


@pytest.fixture(autouse=True)
def quiet():
  tfds.disable_progress_bar()


def encode(image, file_format="PNG", **options):
  file = io.BytesIO()
  image.save(file, file_format, **options)
  return file.getvalue()


def drawing(mode):
  """Red on the left, transparent on the right; black below transparency."""
  image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
  image.paste((*RED, 255), (0, 0, 4, 8))
  if mode == "RGB":  # With a colour that stands for transparency.
    plain = Image.new("RGB", (8, 8), (0, 0, 0))
    plain.paste(RED, (0, 0, 4, 8))
    return encode(plain, transparency=(0, 0, 0))
  return encode(image if mode == "RGBA" else image.convert(mode))


def prepare_files(tmp_path, files, name="mine", **options):
  folder = tmp_path / "files"
  folder.mkdir()
  for i, (suffix, data) in enumerate(files):
    (folder / f"{i}.{suffix}").write_bytes(data)
  data_dir = str(tmp_path / "data")
  prepare.prepare(
    "folder",
    source=str(folder),
    set_name=name,
    data_dir=data_dir,
    options=Options(**options),
  )
  return data_dir


def plain_images(data_dir):
  """As TFDS reads them, without jssl."""
  return [
    record["image"]
    for record in tfds.data_source("mine", data_dir=data_dir, split="train")
  ]


@pytest.mark.parametrize("mode", ["RGBA", "P", "RGB"])
@pytest.mark.parametrize("stored_size_px", [None, 4])
def test_transparent_pixels_become_white(
  tmp_path, caplog, mode, stored_size_px
):
  data_dir = prepare_files(
    tmp_path, [("png", drawing(mode))] * 5, stored_size_px=stored_size_px
  )
  assert caplog.text.count("5 of 5 images have transparency") == 1
  (pixels, *_) = plain_images(data_dir)
  assert tuple(pixels[0, 0]) == RED
  assert tuple(pixels[0, -1]) == WHITE
  batch = open_source("mine", data_dir=data_dir, image_size_px=8).fetch(
    np.array([0])
  )
  assert tuple(batch["image"][0, 0, 0]) == RED
  assert tuple(batch["image"][0, 0, -1]) == WHITE


def test_transparent_pixels_of_gray_images(tmp_path):
  data_dir = prepare_files(tmp_path, [("png", drawing("LA"))] * 5)
  (pixels, *_) = plain_images(data_dir)
  assert pixels.shape == (8, 8, 1)
  assert pixels[0, 0, 0] == 76
  assert pixels[0, -1, 0] == 255


def test_another_background(tmp_path):
  data_dir = prepare_files(
    tmp_path, [("png", drawing("RGBA"))] * 5, background="#0000ff"
  )
  assert tuple(plain_images(data_dir)[0][0, -1]) == BLUE
  with pytest.raises(ValueError, match="--background=bleu: expected a colour"):
    Options(background="bleu")


@pytest.mark.parametrize("stored_size_px", [None, 4])
def test_transparency_is_kept_when_asked(tmp_path, caplog, stored_size_px):
  opaque = encode(Image.new("RGB", (8, 8), BLUE), "JPEG", quality=100)
  data_dir = prepare_files(
    tmp_path,
    [("png", drawing("RGBA"))] * 8 + [("jpg", opaque)] * 2,
    keep_alpha=True,
    stored_size_px=stored_size_px,
  )
  assert "have transparency" not in caplog.text
  source = open_source("mine", data_dir=data_dir, image_size_px=8)
  assert source.image_shape == (8, 8, 4)
  images = source.fetch(np.arange(len(source)))["image"]
  assert {tuple(image[0, 0]) for image in images} <= {
    (*RED, 255),
    (0, 0, 254, 255),
  }
  assert {image[0, -1, 3] for image in images} == {0, 255}
  assert plain_images(data_dir)[0].shape[-1] == 4


def test_transparency_of_a_record_is_composited_too():
  """A set may come from elsewhere."""
  pixels = decode(drawing("RGBA"), size_px=8, channels=3)
  assert tuple(pixels[0, -1]) == WHITE


def quarters(width=16, height=32):
  """An image whose quarters differ."""
  image = Image.new("RGB", (width, height))
  half = width // 2, height // 2
  image.paste(RED, (0, 0, *half))
  image.paste(BLUE, (half[0], half[1], width, height))
  image.paste(WHITE, (half[0], 0, width, half[1]))
  return image


# Turns an upright image into one that the orientation makes upright.
STORED = {
  1: None,
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_90,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_270,
}


def turned(orientation, file_format="JPEG"):
  image = quarters()
  if STORED[orientation] is not None:
    image = image.transpose(STORED[orientation])
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  options = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
    "PNG": {},
    "TIFF": {},
  }[file_format]
  return encode(image, file_format, exif=exif, **options)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_at_read_time(orientation, file_format):
  size = {"size_px": 16, "channels": 3}
  found = decode(turned(orientation, file_format), **size)
  expected = decode(encode(quarters()), **size)
  assert np.abs(found.astype(int) - expected).mean() < 5


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("stored_size_px", [None, 8])
def test_orientation_is_applied_in_prepare(
  tmp_path, orientation, stored_size_px
):
  data = turned(orientation)
  data_dir = prepare_files(
    tmp_path, [("jpg", data)] * 5, stored_size_px=stored_size_px
  )
  size = stored_size_px or 16
  features = tfds.builder("mine", data_dir=data_dir).info.features
  if not stored_size_px:
    assert features["image"].shape == (32, 16, 3)
  source = open_source("mine", data_dir=data_dir, image_size_px=size)
  (record,) = source.records.__getitems__([0])
  # JPEGs stay JPEGs, and those that are upright stay as they are.
  assert record["image"].startswith(b"\xff\xd8")
  assert (record["image"] == data) == (orientation == 1 and size == 16)
  expected = decode(encode(quarters()), size_px=size, channels=3)
  found = source.fetch(np.array([0]))["image"][0]
  assert np.abs(found.astype(int) - expected).mean() < 20
  plain = plain_images(data_dir)[0]
  assert tuple(plain[1, 1] > 128) == (True, False, False)
  assert tuple(plain[1, -2] > 128) == (True, True, True)


@pytest.mark.parametrize("size_px", [8, 16, 64])
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_png_is_not_decoded(size_px, damage):
  data = encode(Image.effect_noise((64, 64), 50))
  middle = len(data) // 2
  flipped = bytes([data[middle] ^ 255])
  data = data[:middle] + (flipped + data[middle + 1 :]) * (damage == "flipped")
  with pytest.raises((OSError, SyntaxError)):
    decode(data, size_px=size_px, channels=1)


def test_malformed_metadata_is_no_damage():
  data = encode(quarters(), "JPEG", exif=b"Exif\0\0not a TIFF header at all")
  assert decode(data, size_px=8, channels=3).shape == (8, 8, 3)


@pytest.mark.parametrize(
  ("suffix", "file_format"),
  [
    ("webp", "WEBP"),
    ("bmp", "BMP"),
    ("gif", "GIF"),
    ("TIF", "TIFF"),
    ("jfif", "JPEG"),
  ],
)
def test_other_formats_are_taken(tmp_path, suffix, file_format):
  data = encode(quarters(), file_format)
  data_dir = prepare_files(
    tmp_path, [(suffix, data)] * 2 + [("png", encode(quarters()))] * 3
  )
  builder = tfds.builder("mine", data_dir=data_dir)
  assert builder.info.splits.total_num_examples == 5
  assert plain_images(data_dir)[0].shape == (32, 16, 3)


def test_programs_are_no_images(tmp_path, monkeypatch):
  """Pillow would run Ghostscript for PostScript of any suffix."""
  data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
  with pytest.raises(ValueError, match=r"\d\.png: truncated or damaged"):
    prepare_files(tmp_path, [("png", data)] * 3)


@pytest.mark.parametrize("skip_damaged", [False, True])
def test_more_pixels_than_pillow_decodes_are_no_damage(
  tmp_path, monkeypatch, skip_damaged
):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  data = encode(quarters())
  with pytest.raises(ValueError, match=r"\d\.png: .*512 pixels.* smaller"):
    prepare_files(tmp_path, [("png", data)] * 3, skip_damaged=skip_damaged)


def test_more_pixels_than_pillow_decodes_in_a_record(tmp_path, monkeypatch):
  data_dir = prepare_files(tmp_path, [("png", encode(quarters()))] * 3)
  source = open_source(
    "mine", data_dir=data_dir, image_size_px=8, skip_damaged=True
  )
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  with pytest.raises(ValueError, match=r"image 0 of mine.*512 pixels"):
    source.fetch(np.array([0]))
