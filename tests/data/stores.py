"""Writes the same images as each kind of data set on disk."""

import io
import itertools
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from PIL import Image


def encode(pixels, file_format="PNG"):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, file_format)
  return file.getvalue()


def noise(number, shape=(7, 9, 3), seed=0):
  rng = np.random.default_rng(seed)
  return [encode(rng.integers(0, 256, shape, np.uint8)) for _ in range(number)]


def table(images, labels, names, first=0):
  """A table as `datasets` makes them."""
  features = {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": names},
  }
  about = json.dumps({"info": {"features": features}})
  image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
  schema = pa.schema(
    {"image": image, "label": pa.int64()}, metadata={"huggingface": about}
  )
  rows = [
    {"image": {"bytes": data, "path": f"{first + i:03}.png"}, "label": label}
    for i, (data, label) in enumerate(zip(images, labels, strict=True))
  ]
  return pa.Table.from_pylist(rows, schema)


def parts(number, shards):
  """Slices of a split for its files, of different lengths."""
  bounds = np.linspace(0, 1, shards + 1) ** 1.3 * number
  return [slice(*map(round, pair)) for pair in itertools.pairwise(bounds)]


def write_saved(folder, splits, names, shards=3):
  """As `datasets.DatasetDict.save_to_disk`: streams of record batches."""
  folder.mkdir(parents=True)
  about = json.dumps({"splits": list(splits)})
  (folder / "dataset_dict.json").write_text(about)
  for split, (images, labels) in splits.items():
    (folder / split).mkdir()
    for i, part in enumerate(parts(len(images), shards)):
      path = folder / split / f"data-{i:05}-of-{shards:05}.arrow"
      rows = table(images[part], labels[part], names, part.start)
      with pa.ipc.new_stream(path, rows.schema) as stream:
        stream.write_table(rows, max_chunksize=7)


def write_parquet(folder, splits, names, shards=3):
  """As `push_to_hub` of `datasets`."""
  (folder / "data").mkdir(parents=True)
  for split, (images, labels) in splits.items():
    for i, part in enumerate(parts(len(images), shards)):
      path = folder / "data" / f"{split}-{i:05}-of-{shards:05}.parquet"
      rows = table(images[part], labels[part], names, part.start)
      pq.write_table(rows, path, row_group_size=5)


def add(tar, name, data):
  member = tarfile.TarInfo(name)
  member.size = len(data)
  tar.addfile(member, io.BytesIO(data))


def write_tars(folder, splits, names, shards=3):
  """As WebDataset: members of a sample have one name."""
  folder.mkdir(parents=True)
  for split, (images, labels) in splits.items():
    for i, part in enumerate(parts(len(images), shards)):
      with tarfile.open(folder / f"set-{split}-{i:04}.tar", "w") as tar:
        for j in range(part.start, part.stop):
          add(tar, f"{j:03}.cls", str(labels[j]).encode())
          add(tar, f"{j:03}.png", images[j])
          add(tar, f"{j:03}.json", b'{"width": 9}')


class OfTfds(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, *, name, splits, names, **options):
    self.name, self._splits, self._names = name, splits, names
    super().__init__(**options)

  def _info(self):
    features = {
      "image": tfds.features.Image(),
      "label": tfds.features.ClassLabel(names=self._names),
      "file_name": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {
      split: self._generate_examples(*rows)
      for split, rows in self._splits.items()
    }

  def _generate_examples(self, images, labels):
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
      name = f"{i:03}.png"
      yield (
        name,
        {"image": io.BytesIO(image), "label": label, "file_name": name},
      )


def write_tfds(folder, splits, names, shards=3):
  """ArrayRecord files; the order of images is that of a hash."""
  tfds.disable_progress_bar()
  builder = OfTfds(
    name=folder.name, splits=splits, names=names, data_dir=str(folder.parent)
  )
  builder.download_and_prepare(
    file_format="array_record",
    download_config=tfds.download.DownloadConfig(num_shards=shards),
  )


STORES = {
  "ArrayRecord": write_tfds,
  "Arrow": write_saved,
  "Parquet": write_parquet,
  "tar": write_tars,
}
