import dataclasses
import io
import json
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jssl.data import array_record, folder, manifest, pipeline, prepare
from jssl.data.decode import decode
from jssl.data.encode import Options
from jssl.data.open import open_source
from jssl.data.source import Segmented
from jssl.runtime.paths import as_path


def encode(pixels, file_format="PNG"):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, file_format)
  return file.getvalue()


@pytest.fixture
def photos(tmp_path):
  """A prepared set of images of several sizes; returns its data_dir."""
  tfds.disable_progress_bar()
  root = tmp_path / "photos"
  rng = np.random.default_rng(0)
  for name in ("a", "b"):
    (root / name).mkdir(parents=True)
    for i in range(5):
      pixels = rng.integers(0, 256, (20 + i, 30, 3), np.uint8)
      (root / name / f"{i}.png").write_bytes(encode(pixels))
  data_dir = str(tmp_path / "data")
  prepare.prepare("folder", source=str(root), data_dir=data_dir)
  return data_dir


def open_photos(data_dir, split="train", image_size_px=12):
  return array_record.open_prepared(
    "photos", data_dir=data_dir, split=split, image_size_px=image_size_px
  )


@pytest.mark.parametrize("channels", [1, 3])
def test_image_of_the_right_size_is_left_alone(channels):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (8, 8, channels), np.uint8)
  image = decode(encode(pixels.squeeze()), size_px=8, channels=channels)
  np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (16, 16), (4, 10)])
def test_shorter_side_is_resized_and_the_centre_taken(shape):
  """A ramp along the longer side stays a ramp about its middle value."""
  height, width = shape
  along = np.arange(max(shape)) / (max(shape) - 1)
  ramp = 255 * (along[None, :] if width >= height else along[:, None])
  pixels = np.rint(np.broadcast_to(ramp, shape)).astype(np.uint8)
  image = decode(encode(pixels), size_px=8, channels=1)
  assert image.shape == (8, 8, 1)
  assert abs(image.mean() - 127.5) < 2
  profile = image[..., 0].mean(axis=0 if width >= height else 1)
  step = 255 / (max(shape) - 1) * min(shape) / 8
  np.testing.assert_allclose(np.diff(profile)[1:-1], step, atol=0.25 * step)


def test_resize_is_antialiased():
  """A chequered pattern of single pixels becomes its mean."""
  pixels = (255 * (np.indices((64, 64)).sum(axis=0) % 2)).astype(np.uint8)
  image = decode(encode(pixels), size_px=8, channels=1)
  np.testing.assert_allclose(image, 127.5, atol=3)


def test_large_jpeg_keeps_its_picture():
  along = np.linspace(0, 255, 800)
  pixels = np.rint(np.broadcast_to(along, (600, 800))).astype(np.uint8)
  image = decode(encode(pixels, "JPEG"), size_px=32, channels=3)
  assert image.shape == (32, 32, 3)
  profile = image.mean(axis=(0, 2))
  np.testing.assert_allclose(np.diff(profile), 255 / 800 * 600 / 32, atol=1.5)


def test_fetch_resizes_and_labels(photos):
  source = open_photos(photos)
  assert len(source) == 8
  assert source.class_names == ("a", "b")
  assert source.image_shape == (12, 12, 3)
  batch = source.fetch(np.array([5, 0]))
  assert batch["image"].shape == (2, 12, 12, 3)
  assert batch["image"].dtype == np.uint8
  plain = tfds.data_source("photos", data_dir=photos, split="train")
  assert batch["label"].tolist() == [plain[5]["label"], plain[0]["label"]]


def test_part_of_a_split(photos):
  assert len(open_photos(photos, split="train[:50%]")) == 4


def test_workers_can_be_sent_a_source(photos):
  source = open_photos(photos)
  sent = pickle.loads(pickle.dumps(source))
  rows = np.arange(4)
  np.testing.assert_array_equal(
    sent.fetch(rows)["image"], source.fetch(rows)["image"]
  )


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist/x", "mnist:1.0.0"])
def test_missing_set_of_tfds_names_the_command(tmp_path, name):
  command = f"python -m jssl.data.prepare {name} --data_dir {tmp_path}$"
  with pytest.raises(FileNotFoundError, match=command):
    array_record.open_prepared(
      name, data_dir=str(tmp_path), split="train", image_size_px=8
    )


def test_missing_folder_set_names_the_command(tmp_path):
  command = "jssl.data.prepare folder --source DIR --name mine"
  with pytest.raises(FileNotFoundError, match=command):
    array_record.open_prepared(
      "mine", data_dir=str(tmp_path), split="train", image_size_px=8
    )


def test_missing_split_names_those_there_are(photos):
  with pytest.raises(
    ValueError, match=r"splits \['test', 'train'\], not 'dev'"
  ):
    open_photos(photos, split="dev")


def test_damaged_record_is_named(photos, monkeypatch):
  source = open_photos(photos)
  records = source.records.__getitems__([0, 1, 2])
  records[2]["image"] = records[2]["image"][:50]
  monkeypatch.setattr(
    type(source.records), "__getitems__", lambda self, rows: records
  )
  with pytest.raises(ValueError, match=r"image 6 of photos, split train"):
    source.fetch(np.array([4, 5, 6]))


SHARDS = 4


class OfTfds(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A set as TFDS's own builders write ImageNet: splits, features, shards."""

  name = "of_tfds"
  VERSION = tfds.core.Version("5.1.0")

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(encoding_format="jpeg"),
          "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
          "file_name": tfds.features.Text(),
        }
      ),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager):
    return {
      "train": self._generate_examples(30),
      "validation": self._generate_examples(6),
    }

  def _generate_examples(self, number):
    for i in range(number):
      pixels = np.full((18, 16 + i, 3), 8 * i, np.uint8)
      name = f"{i:03}.JPEG"
      image = io.BytesIO(encode(pixels, "JPEG"))
      yield name, {"image": image, "label": i % 3, "file_name": name}


@pytest.fixture(params=["folder", "TFDS"])
def sharded(tmp_path, request):
  """A source of 30 images in several files; image i has the value 8 i."""
  tfds.disable_progress_bar()
  config = tfds.download.DownloadConfig(num_shards=SHARDS)
  name = OfTfds.name
  if request.param == "TFDS":
    OfTfds(data_dir=str(tmp_path / "data")).download_and_prepare(
      file_format="array_record", download_config=config
    )
  else:
    name = "of_folder"
    for i in range(30):
      path = tmp_path / "set" / "train" / f"{i:03}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(encode(np.full((18, 16 + i, 3), 8 * i, np.uint8)))
    (tmp_path / "set" / "test").mkdir()
    for i in range(4):
      (tmp_path / "set" / "test" / f"{i}.png").write_bytes(path.read_bytes())
    folder.prepare_folder(
      tmp_path / "set",
      name=name,
      data_dir=tmp_path / "data",
      download_config=config,
    )
  return array_record.open_prepared(
    name,
    data_dir=str(tmp_path / "data"),
    split="train",
    image_size_px=8,
  )


def values(images):
  """The number of each image."""
  return np.rint(np.asarray(images, float).mean(axis=(1, 2, 3)) / 8).astype(int)


def files_of(source):
  instructions = source.records.data_source._read_instructions
  return [instruction.filename for instruction in instructions]


def test_rows_of_several_files(sharded):
  assert len(set(files_of(sharded))) == SHARDS
  assert len(sharded) == 30
  whole = sharded.fetch(np.arange(30))
  numbers = values(whole["image"])
  assert sorted(numbers) == list(range(30))
  if sharded.num_classes:
    assert sharded.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(whole["label"], numbers % 3)
  # In any order, over the borders of files, and more than once.
  rows = np.array([29, 0, 7, 8, 7, 22, 15])
  np.testing.assert_array_equal(
    sharded.fetch(rows)["image"], whole["image"][rows]
  )
  sent = pickle.loads(pickle.dumps(sharded))
  np.testing.assert_array_equal(sent.fetch(rows)["image"], whole["image"][rows])


def test_a_process_reads_its_rows_alone(sharded, monkeypatch):
  """Of all files, what is on its devices; together each image once."""
  numbers = values(sharded.fetch(np.arange(30))["image"])
  read = []
  of_files = type(sharded.records.data_source)
  monkeypatch.setattr(
    of_files,
    "__getitems__",
    lambda self, rows, get=of_files.__getitems__: (
      read.extend(rows) or get(self, rows)
    ),
  )
  seen = []
  for rows in (np.arange(5), np.arange(5, 10)):
    read.clear()
    batches = iter(
      pipeline.host_batches(sharded, seed=3, batch_size=10, rows=rows)
    )
    images = np.concatenate([next(batches)["image"] for _ in range(3)])
    assert len(images) == 15
    # Three batches of five, and nothing besides.
    assert sorted(numbers[read]) == sorted(values(images))
    files = {
      sharded.records.data_source._reader_idx_and_position(r)[0] for r in read
    }
    assert len(files) > 1
    seen += read
  assert sorted(seen) == list(range(30))


def test_fingerprint_is_that_of_the_records(tmp_path):
  """Two sets of the same images have one; other images or a part another."""
  tfds.disable_progress_bar()

  def prepared(name, *, split="train", seed=0, renamed="a", in_memory=False):
    rng = np.random.default_rng(seed)
    root = tmp_path / name / "photos"
    for class_name in (renamed, "b"):
      (root / class_name).mkdir(parents=True)
      for i in range(5):
        # A PNG of noise has the same size, whatever the noise.
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        (root / class_name / f"{i}.png").write_bytes(encode(pixels))
    data_dir = str(tmp_path / name / "data")
    prepare.prepare("folder", source=str(root), data_dir=data_dir)
    options = {"data_dir": data_dir, "split": split, "image_size_px": 8}
    return open_source("photos", in_memory=in_memory, **options)

  first = prepared("first")
  assert first.fingerprint().startswith("8 images, ")
  sent = pickle.loads(pickle.dumps(first))
  assert sent.fingerprint() == first.fingerprint()
  assert prepared("again").fingerprint() == first.fingerprint()
  assert prepared("memory", in_memory=True).fingerprint() == first.fingerprint()
  others = [
    prepared("other", seed=1),
    prepared("part", split="train[:50%]"),
    prepared("test", split="test"),
    prepared("renamed", renamed="c"),
  ]
  assert first.fingerprint() not in {other.fingerprint() for other in others}


def test_a_set_does_not_choose_what_is_imported(photos, tmp_path, monkeypatch):
  """Feature classes of a set from somebody else."""
  marker = tmp_path / "ran"
  (tmp_path / "foreign.py").write_text(
    f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  (path,) = (tmp_path / "data").rglob("features.json")
  plain = json.loads(path.read_text())
  image = "tensorflow_datasets.core.features.image_feature.Image"
  assert image in path.read_text()
  foreign = {"type": "foreign.Image", "content": {}}
  for features in (
    {**plain, "pythonClassName": "foreign.Features"},
    path.read_text().replace(image, "foreign.Image"),
    path.read_text()
    .replace("pythonClassName", "python_class_name")
    .replace(image, "foreign.Image"),
    foreign,
    # JSON within a string of JSON.
    {
      "pythonClassName": image.replace(
        "image_feature.Image", "sequence_feature.Sequence"
      ),
      "jsonFeature": {"json": json.dumps({"feature": foreign})},
    },
  ):
    text = features if isinstance(features, str) else json.dumps(features)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"json of .*'photos'.*'foreign\."):
      open_photos(photos)
  assert not marker.exists()
  path.write_text(json.dumps(plain))
  assert len(open_photos(photos)) == 8


OPEN_FILES = """
import resource, sys
import numpy as np
soft, hard = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from jssl.data.open import open_source
source = open_source("many", data_dir=sys.argv[1], image_size_px=8)
print(len(source.fetch(np.arange(len(source)))["label"]))
files = [open("/dev/null") for _ in range(40)]  # As a save needs them.
"""


def test_a_set_of_more_files_than_the_soft_limit(tmp_path):
  tfds.disable_progress_bar()
  for split in ("train", "test"):
    (tmp_path / "set" / split).mkdir(parents=True)
    for i in range(120):
      path = tmp_path / "set" / split / f"{i:03}.png"
      path.write_bytes(encode(np.full((8, 8, 3), i, np.uint8)))
  folder.prepare_folder(
    tmp_path / "set",
    name="many",
    data_dir=tmp_path / "data",
    download_config=tfds.download.DownloadConfig(num_shards=100),
  )

  def run(soft, hard):
    return subprocess.run(
      [
        sys.executable,
        "-c",
        OPEN_FILES,
        tmp_path / "data",
        str(soft),
        str(hard),
      ],
      capture_output=True,
      text=True,
      check=False,
    )

  done = run(72, 1024)
  assert done.returncode == 0, done.stderr
  assert done.stdout == "120\n"
  done = run(72, 128)
  assert done.returncode == 1
  assert "'many' has 100 files, and this process may open 128" in done.stderr
  assert "at least 164 with `ulimit -n`" in done.stderr


@pytest.mark.parametrize("channels", [2, 5])
def test_numbers_of_channels(photos, tmp_path, channels, monkeypatch):
  (path,) = (tmp_path / "data").rglob("features.json")
  features = json.loads(path.read_text())
  shape = features["featuresDict"]["features"]["image"]["image"]["shape"]
  shape["dimensions"][-1] = str(channels)
  path.write_text(json.dumps(features))
  with pytest.raises(ValueError, match=f"{channels} channels; expected one of"):
    open_photos(photos)


@pytest.fixture
def segmented(tmp_path):
  """Images of several sizes and their masks; returns both folders."""
  tfds.disable_progress_bar()
  images, masks = tmp_path / "scenes", tmp_path / "masks"
  rng = np.random.default_rng(0)
  for name in ("a", "b"):
    (images / name).mkdir(parents=True)
    (masks / name).mkdir(parents=True)
    for i in range(5):
      mask = rng.integers(0, 3, (4, 6), np.uint8)
      mask[0, 1] = 255
      mask = mask.repeat(4 + i, 0).repeat(4 + i, 1)
      # The pixels say what the mask must be.
      pixels = np.where(mask == 255, 200, 60 * mask).astype(np.uint8)
      (images / name / f"{i}.png").write_bytes(encode(pixels))
      (masks / name / f"{i}.png").write_bytes(encode(mask))
  return images, masks


def prepare_segmented(segmented, **options):
  images, masks = segmented
  data_dir = str(images.parent / "data")
  prepare.prepare(
    "folder",
    source=str(images),
    data_dir=data_dir,
    options=Options(masks=masks, **options),
  )
  return data_dir


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("stored_size_px", [None, 16])
def test_masks_lie_on_their_images(segmented, in_memory, stored_size_px):
  data_dir = prepare_segmented(segmented, stored_size_px=stored_size_px)
  source = open_source(
    "scenes",
    data_dir=data_dir,
    image_size_px=4 * 4,
    in_memory=in_memory,
  )
  assert isinstance(source, Segmented)
  rows = np.array([7, 0, 3])
  masks = source.fetch_masks(rows)
  assert set(np.unique(source.fetch_masks(np.arange(8)))) == {-1, 0, 1, 2}
  images = source.fetch(rows)["image"][..., 0].astype(int)
  want = np.where(masks < 0, 200, 60 * masks)
  # Interpolation mixes pixels at the borders of blocks.
  assert (np.abs(images - want) < 8).mean() > 0.5
  centre = np.s_[:, 1::4, 1::4]
  assert (np.abs(images - want)[centre] < 30).mean() > 0.9


@pytest.mark.parametrize(
  ("break_mask", "match"),
  [
    (lambda path: path.unlink(), "3.png is missing; expected a mask for"),
    (
      lambda path: (path.unlink(), path.mkdir()),
      r"3.png is unreadable \(Is a dir.*\); expected a mask for",
    ),
    (lambda path: path.write_bytes(b""), "3.png: no image of a known format"),
    (
      lambda path: path.write_bytes(encode(np.zeros((5, 7), np.uint8))),
      "3.png: 7 x 5 px; expected 42 x 28 px, the size of .*3.png",
    ),
    (
      lambda path: path.write_bytes(encode(np.zeros((28, 42, 3), np.uint8))),
      "3.png: a mask with pixels of mode RGB; expected one channel of 8 bits",
    ),
  ],
)
def test_masks_that_do_not_fit(segmented, break_mask, match):
  break_mask(segmented[1] / "a" / "3.png")
  with pytest.raises(ValueError, match=match):
    prepare_segmented(segmented)


def test_masks_that_change_after_an_interruption(segmented, monkeypatch):
  monkeypatch.setattr(manifest, "PART_IMAGES", 1)
  break_mask, change = (segmented[1] / "a" / f"{i}.png" for i in (3, 4))
  whole = break_mask.read_bytes()
  break_mask.write_bytes(b"")
  with pytest.raises(ValueError, match=r"3\.png: no image of a known"):
    prepare_segmented(segmented)
  break_mask.write_bytes(whole)
  change.write_bytes(encode(np.full((32, 48), 2, np.uint8)))
  source = open_source(
    "scenes",
    data_dir=prepare_segmented(segmented),
    split="all",
    image_size_px=16,
  )
  rows = np.arange(len(source))
  changed = source.fetch_names(rows).index("a/4.png")
  assert (source.fetch_masks(rows)[changed] == 2).all()


def test_a_replaced_image_has_the_mask_of_its_replacement(segmented):
  data_dir = prepare_segmented(segmented)
  source = open_source(
    "scenes", data_dir=data_dir, image_size_px=16, skip_damaged=True
  )
  records = list(source.records)
  records[2] = {**records[2], "image": b"damaged"}

  class Records(list):
    def __getitems__(self, rows):
      return [self[row] for row in rows]

  damaged = dataclasses.replace(source, records=Records(records))
  masks = damaged.fetch_masks(np.array([2, 3]))
  np.testing.assert_array_equal(*masks)
  np.testing.assert_array_equal(masks, source.fetch_masks(np.array([3, 3])))


# ArrayRecord reads buckets of Google; sets of other stores are copied.
@pytest.mark.parametrize("scheme", ["gs", "memory"])
@pytest.mark.usefixtures("bucket")
def test_a_set_in_a_store(photos, scheme, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  url = f"{scheme}://bucket/sets"
  as_path(url).upload(pathlib.Path(photos))
  stored, local = open_photos(url), open_photos(photos)
  assert stored.fingerprint() == local.fingerprint()
  rows = np.arange(len(local))[::-1]
  found, expected = stored.fetch(rows), local.fetch(rows)
  for name in ("image", "label"):
    np.testing.assert_array_equal(found[name], expected[name])
  assert stored.fetch_names(rows) == local.fetch_names(rows)
  assert (tmp_path / "cache").exists() == (scheme == "memory")
  match = f"'other' is not in {url} .* prepare it on a disk, and copy"
  with pytest.raises(FileNotFoundError, match=match):
    array_record.open_prepared(
      "other", data_dir=url, split="train", image_size_px=12
    )
