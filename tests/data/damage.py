"""A set of small JPEGs, and what breaks them."""

import io
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jssl.data import array_record, prepare

CLASSES = 5
IMAGES_A_CLASS = 8


def jpeg(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "JPEG", quality=95)
  return file.getvalue()


def write_folder(folder, images_a_class=IMAGES_A_CLASS, size_px=32):
  rng = np.random.default_rng(0)
  for name in "abcdefgh"[:CLASSES]:
    (folder / name).mkdir(parents=True)
    for i in range(images_a_class):
      pixels = rng.integers(0, 256, (size_px, size_px, 3), np.uint8)
      (folder / name / f"{i}.jpg").write_bytes(jpeg(pixels))


def prepare_set(tmp_path, **options):
  """Prepares a set of JPEGs; returns its data_dir."""
  tfds.disable_progress_bar()
  write_folder(tmp_path / "photos", **options)
  data_dir = str(tmp_path / "data")
  prepare.prepare("folder", source=str(tmp_path / "photos"), data_dir=data_dir)
  return data_dir


def opened(data_dir, **options):
  return array_record.open_prepared(
    "photos", data_dir=data_dir, split="train", image_size_px=16, **options
  )


def shard_of(data_dir):
  (path,) = pathlib.Path(data_dir).rglob("*-train.array_record*")
  return path


def break_record(data_dir, row):
  """Turns round a byte of one record in the file of a prepared set."""
  (record,) = opened(data_dir).records.__getitems__([row])
  encoded = record["image"]
  path = shard_of(data_dir)
  data = bytearray(path.read_bytes())
  # Compressed, but a JPEG can't be: a part of it is there as it was.
  part = encoded[len(encoded) // 2 :][:40]
  where = data.find(part)
  assert where > 0
  data[where] ^= 255
  path.write_bytes(bytes(data))
