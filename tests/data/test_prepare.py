import gzip
import io
import os
import pathlib
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data.listing import list_splits
from PIL import Image

from jssl.data import fashion_mnist, layout, prepare
from jssl.data.decode import decode
from jssl.data.encode import Options, encode
from jssl.data.open import open_source
from jssl.data.source import InMemory


@pytest.fixture(autouse=True)
def quiet():
  tfds.disable_progress_bar()


def idx_bytes(array, magic=None):
  header = magic or bytes([0, 0, 8, array.ndim])
  return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path):
  """A folder with a small set in IDX: (folder, {split: (images, labels)})."""
  folder = tmp_path / "idx"
  folder.mkdir()
  rng = np.random.default_rng(0)
  arrays = {}
  for split, number in (("train", 30), ("test", 10)):
    images = rng.integers(0, 256, (number, 28, 28), np.uint8)
    labels = np.resize(np.arange(10, dtype=np.uint8), number)
    image_name, label_name = fashion_mnist._IDX_FILES[split]
    (folder / image_name).write_bytes(idx_bytes(images))
    (folder / f"{label_name}.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    arrays[split] = images, labels
  return folder, arrays


def by_pixels(images, labels):
  return sorted(
    (np.asarray(image).tobytes(), int(label))
    for image, label in zip(images, labels, strict=True)
  )


def write_images(folder, number, *, mode="RGB", size=(9, 7), suffix="png"):
  """Writes `number` images; returns {file name: pixels}."""
  folder.mkdir(parents=True, exist_ok=True)
  # Each folder has its own images.
  rng = np.random.default_rng(sum(str(folder.name).encode()))
  for i in range(number):
    shape = (size[1], size[0], len(Image.new(mode, (1, 1)).getbands()))
    pixels = rng.integers(0, 256, shape, np.uint8).squeeze()
    Image.fromarray(pixels, mode="CMYK" if mode == "CMYK" else None).save(
      folder / f"{i}.{suffix}"
    )


def prepare_folder(source, tmp_path, name="mine"):
  data_dir = str(tmp_path / "data")
  prepare.prepare(
    "folder", source=str(source), set_name=name, data_dir=data_dir
  )
  return data_dir


def assert_nothing_written(tmp_path):
  """No set, nor a part of one; what is encoded may be kept."""
  assert not [
    *(tmp_path / "data").glob("*/1.0.0"),
    *(tmp_path / "data").glob("*/incomplete*"),
  ]
  files = [p for p in (tmp_path / "data").rglob("*") if p.is_file()]
  assert {p.parent.name for p in files} <= {".mine-1.0.0.parts"}


def test_idx_opens_with_plain_tfds(fashion, tmp_path):
  folder, arrays = fashion
  data_dir = str(tmp_path / "data")
  directory = prepare.prepare(
    "fashion_mnist", source=str(folder), data_dir=data_dir
  )
  builders = (
    tfds.builder("fashion_mnist", data_dir=data_dir),
    tfds.builder_from_directory(directory),
  )
  for builder in builders:
    assert builder.info.full_name == "fashion_mnist/3.0.1"
    assert builder.info.features["image"].shape == (28, 28, 1)
    assert builder.info.features["label"].names[0] == "T-shirt/top"
    for split, (images, labels) in arrays.items():
      records = list(builder.as_data_source(split=split))
      assert by_pixels(
        [r["image"][..., 0] for r in records], [r["label"] for r in records]
      ) == by_pixels(images, labels)
  plain = tfds.data_source("fashion_mnist", data_dir=data_dir, split="test")
  assert len(plain) == 10


@pytest.mark.parametrize("in_memory", [False, True])
def test_idx_opens_as_a_source(fashion, tmp_path, in_memory):
  folder, arrays = fashion
  data_dir = str(tmp_path / "data")
  prepare.prepare("fashion_mnist", source=str(folder), data_dir=data_dir)
  source = open_source(
    "fashion_mnist",
    data_dir=data_dir,
    split="train",
    image_size_px=28,
    in_memory=in_memory,
  )
  assert isinstance(source, InMemory) == in_memory
  assert (len(source), source.num_classes) == (30, 10)
  assert source.class_names[9] == "Ankle boot"
  assert source.image_shape == (28, 28, 1)
  batch = source.fetch(np.arange(30))
  assert batch["image"].dtype == np.uint8
  assert batch["label"].dtype == np.int32
  assert by_pixels(batch["image"][..., 0], batch["label"]) == by_pixels(
    *arrays["train"]
  )
  some = source.fetch(np.array([7, 3, 7]))
  np.testing.assert_array_equal(some["image"], batch["image"][[7, 3, 7]])
  np.testing.assert_array_equal(some["label"], batch["label"][[7, 3, 7]])


def test_preparing_twice_leaves_the_set(fashion, tmp_path):
  folder, _ = fashion
  options = {"source": str(folder), "data_dir": str(tmp_path / "data")}
  directory = pathlib.Path(prepare.prepare("fashion_mnist", **options))
  before = {p.name: p.stat().st_mtime_ns for p in directory.iterdir()}
  assert prepare.prepare("fashion_mnist", **options) == str(directory)
  assert {p.name: p.stat().st_mtime_ns for p in directory.iterdir()} == before


def test_truncated_idx_names_expected_and_got(fashion, tmp_path):
  folder, _ = fashion
  path = folder / "train-images-idx3-ubyte"
  path.write_bytes(path.read_bytes()[:-1000])
  message = (
    rf"{path.name}: .*size {30 * 28 * 28 - 1000} into shape \(30,28,28\)"
  )
  with pytest.raises(ValueError, match=message):
    prepare.prepare(
      "fashion_mnist", source=str(folder), data_dir=str(tmp_path / "data")
    )
  assert_nothing_written(tmp_path)


def test_damage_to_the_last_file_leaves_nothing(fashion, tmp_path):
  folder, _ = fashion
  path = folder / "t10k-labels-idx1-ubyte.gz"
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(ValueError, match=rf"{path.name}: truncated, damaged"):
    prepare.prepare(
      "fashion_mnist", source=str(folder), data_dir=str(tmp_path / "data")
    )
  assert_nothing_written(tmp_path)


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"\0\0\x08",
    b"not an IDX file at all",
    idx_bytes(np.zeros((2, 2), "u1")),
  ],
)
def test_other_files_are_not_idx(tmp_path, data):
  path = tmp_path / "file"
  path.write_bytes(data)
  with pytest.raises(ValueError, match="expected an IDX file"):
    fashion_mnist.read_idx(path, 3)


def test_labels_must_belong_to_the_images(fashion, tmp_path):
  folder, _ = fashion
  (folder / "train-labels-idx1-ubyte").write_bytes(
    idx_bytes(np.zeros(29, np.uint8))
  )
  with pytest.raises(ValueError, match="not the files of one split"):
    prepare.prepare(
      "fashion_mnist", source=str(folder), data_dir=str(tmp_path / "data")
    )


def test_missing_idx_file_is_named(fashion, tmp_path):
  folder, _ = fashion
  (folder / "t10k-images-idx3-ubyte").unlink()
  with pytest.raises(FileNotFoundError, match="neither t10k-images"):
    prepare.prepare(
      "fashion_mnist", source=str(folder), data_dir=str(tmp_path / "data")
    )


def test_classes_of_a_folder(tmp_path):
  for name in ("cat", "dog"):
    write_images(tmp_path / "pets" / name, 20)
  write_images(tmp_path / "pets" / "cat" / "old", 10, suffix="jpg")
  (tmp_path / "pets" / "README.txt").write_text("not an image")
  data_dir = prepare_folder(tmp_path / "pets", tmp_path)

  builder = tfds.builder("mine", data_dir=data_dir)
  assert builder.info.features["image"].shape == (7, 9, 3)
  assert builder.info.features["label"].names == ["cat", "dog"]
  splits = {s: list(builder.as_data_source(split=s)) for s in ("train", "test")}
  counts = {
    split: np.bincount([r["label"] for r in records]).tolist()
    for split, records in splits.items()
  }
  assert counts == {"train": [27, 18], "test": [3, 2]}
  written = by_pixels(
    *zip(
      *((r["image"], r["label"]) for rs in splits.values() for r in rs),
      strict=True,
    )
  )
  files = sorted((tmp_path / "pets").rglob("*.*g"))
  assert written == by_pixels(
    [Image.open(path) for path in files],
    ["dog" in path.parts for path in files],
  )


def test_held_out_images_are_the_same_every_time(tmp_path):
  write_images(tmp_path / "pets" / "cat", 20)
  write_images(tmp_path / "pets" / "dog", 20)
  splits = list_splits(tmp_path / "pets")
  assert splits == list_splits(tmp_path / "pets")
  (tmp_path / "pets").rename(tmp_path / "moved")
  moved = list_splits(tmp_path / "moved")
  for name in ("cat", "dog"):
    assert [p.name for p in moved["test"][name]] == [
      p.name for p in splits["test"][name]
    ]
    assert not set(splits["test"][name]) & set(splits["train"][name])


@pytest.mark.parametrize("other", ["test", "val"])
def test_splits_of_a_folder(tmp_path, other):
  for split, number in (("train", 5), (other, 1)):
    for name in ("a", "b"):
      write_images(tmp_path / "set" / split / name, number)
  data_dir = prepare_folder(tmp_path / "set", tmp_path)
  for split, number in (("train", 10), ("test", 2)):
    assert (
      len(tfds.data_source("mine", data_dir=data_dir, split=split)) == number
    )


def test_three_splits_of_a_folder(tmp_path):
  for split in ("train", "val", "test"):
    write_images(tmp_path / "set" / split, 4)
  assert set(list_splits(tmp_path / "set")) == {"train", "val", "test"}


def test_unlabelled_folder(tmp_path):
  write_images(tmp_path / "flat", 20)
  data_dir = prepare_folder(tmp_path / "flat", tmp_path)
  source = open_source(
    "mine", data_dir=data_dir, split="train", image_size_px=7
  )
  assert (len(source), source.num_classes) == (18, 0)
  assert source.class_names == ()
  assert source.fetch(np.arange(3))["label"].tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
  ("modes", "channels"),
  [(("L", "1"), 1), (("L", "RGB"), 3), (("P", "RGBA"), 3), (("L", "LA"), 1)],
)
def test_channels_of_a_folder(tmp_path, modes, channels):
  folder = tmp_path / "set"
  folder.mkdir()
  colours = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
  image = Image.fromarray(colours)
  for i in range(6):
    image.convert(modes[i % 2]).save(folder / f"{i}.png")
  data_dir = prepare_folder(folder, tmp_path)
  plain = tfds.data_source("mine", data_dir=data_dir, split="train")
  source = open_source("mine", data_dir=data_dir, image_size_px=6)
  wanted = "L" if channels == 1 else "RGB"
  expected = {
    np.asarray(image.convert(mode).convert(wanted)).tobytes() for mode in modes
  }
  for row in range(5):
    assert plain[row]["image"].shape == (6, 6, channels)
    fetched = source.fetch(np.array([row]))["image"][0]
    np.testing.assert_array_equal(fetched, plain[row]["image"])
    assert fetched.tobytes() in expected


def test_jpeg_of_four_colours_is_converted(tmp_path):
  write_images(tmp_path / "set", 5, mode="CMYK", suffix="jpg")
  data_dir = prepare_folder(tmp_path / "set", tmp_path)
  plain = tfds.data_source("mine", data_dir=data_dir, split="train")
  assert plain[0]["image"].shape == (7, 9, 3)


def test_files_that_fit_are_kept_byte_for_byte(tmp_path):
  write_images(tmp_path / "set", 5, suffix="jpeg")
  path = tmp_path / "set" / "0.jpeg"
  stored = encode(path.read_bytes(), options=Options())
  assert stored.data == path.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_larger_images_are_stored_as_they_are_read(tmp_path, suffix):
  # Smooth, which a JPEG keeps.
  ramp = np.add.outer(np.arange(30), 2 * np.arange(40)).astype(np.uint8)
  large = Image.fromarray(np.stack([ramp] * 3, axis=-1))
  for split in ("train", "test"):
    (tmp_path / "set" / split).mkdir(parents=True)
    for i in range(2):
      large.save(tmp_path / "set" / split / f"{i}.{suffix}", quality=95)
  # A low one would have to be enlarged.
  low = tmp_path / "set" / "train" / f"low.{suffix}"
  large.crop((0, 0, 40, 16)).save(low)
  data_dir = str(tmp_path / "data")
  prepare.prepare(
    "folder",
    source=str(tmp_path / "set"),
    set_name="mine",
    data_dir=data_dir,
    options=Options(stored_size_px=16),
  )
  source = open_source("mine", data_dir=data_dir, image_size_px=16)
  stored = [r["image"] for r in source.records.__getitems__([0, 1, 2])]
  stored.remove(low.read_bytes())
  path = tmp_path / "set" / "train" / f"0.{suffix}"
  wanted = decode(path.read_bytes(), size_px=16, channels=3)
  for data in stored:
    with Image.open(io.BytesIO(data)) as image:
      assert image.format == Image.registered_extensions()[f".{suffix}"]
      assert image.size == (16, 16)
      np.testing.assert_allclose(
        np.asarray(image, int), wanted.astype(int), atol=3 * (suffix == "jpg")
      )
  plain = tfds.data_source("mine", data_dir=data_dir, split="train")
  assert {record["image"].shape[0] for record in plain} == {16}


def test_only_a_folder_is_stored_at_another_size(fashion, tmp_path):
  with pytest.raises(ValueError, match=r"_px=16.*only images of a folder"):
    prepare.prepare(
      "fashion_mnist",
      source=str(fashion[0]),
      data_dir=str(tmp_path),
      options=Options(stored_size_px=16),
    )


def damage(path, kind):
  data = path.read_bytes()
  middle = len(data) // 2
  path.write_bytes(
    {
      "empty": b"",
      "text": b"this is no image, whatever its name says",
      "truncated": data[:middle],
      "flipped": data[:middle]
      + bytes([data[middle] ^ 255])
      + data[middle + 1 :],
    }[kind]
  )


@pytest.mark.parametrize(
  ("suffix", "kind"),
  [
    ("png", "empty"),
    ("png", "text"),
    ("png", "truncated"),
    ("png", "flipped"),
    ("jpg", "truncated"),
  ],
)
def test_damaged_image_is_named(tmp_path, suffix, kind):
  write_images(tmp_path / "set", 10, suffix=suffix, size=(40, 40))
  damage(tmp_path / "set" / f"7.{suffix}", kind)
  with pytest.raises(ValueError, match=rf"7\.{suffix}: truncated or damaged"):
    prepare_folder(tmp_path / "set", tmp_path)
  assert_nothing_written(tmp_path)


def test_colours_without_a_profile_are_refused(tmp_path):
  write_images(tmp_path / "set", 4)
  Image.new("LAB", (7, 9)).save(tmp_path / "set" / "lab.tif")
  with pytest.raises(ValueError, match=r"lab\.tif: pixels of mode LAB; exp"):
    prepare_folder(tmp_path / "set", tmp_path)


def test_class_with_one_image(tmp_path):
  write_images(tmp_path / "set" / "many", 10)
  write_images(tmp_path / "set" / "one", 1)
  with pytest.raises(ValueError, match=r"class one has 1 image.*at least 3"):
    prepare_folder(tmp_path / "set", tmp_path)
  for split in ("train", "test"):
    write_images(tmp_path / "split" / split / "many", 10)
    write_images(tmp_path / "split" / split / "one", 1)
  with pytest.raises(ValueError, match=r"class one has 1 image.*at least 2"):
    prepare_folder(tmp_path / "split", tmp_path)


def make_empty(folder):
  folder.mkdir()


def make_empty_class(folder):
  write_images(folder / "full", 5)
  (folder / "bare").mkdir()


def make_one_class(folder):
  write_images(folder / "only", 5)


def make_mixed(folder):
  write_images(folder, 5)
  write_images(folder / "more", 5)


def make_unknown_class(folder):
  write_images(folder / "train" / "a", 5)
  write_images(folder / "train" / "b", 5)
  write_images(folder / "test" / "a", 5)
  write_images(folder / "test" / "c", 5)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (make_empty, "has no images"),
    (make_empty_class, r"classes without images: 'bare'"),
    (make_one_class, "has a single class, only"),
    (make_mixed, "both folders and images"),
    (make_unknown_class, r"split test has classes not in train: 'c'"),
  ],
)
def test_folders_that_are_no_set(tmp_path, make, message):
  make(tmp_path / "set")
  with pytest.raises(ValueError, match=message):
    prepare_folder(tmp_path / "set", tmp_path)
  assert_nothing_written(tmp_path)


def test_unreadable_folder_is_not_passed_over(tmp_path, monkeypatch):
  for name in ("a", "b"):
    write_images(tmp_path / "set" / name, 5)

  def scandir(path, scandir=layout.os.scandir):
    if str(path).endswith("b"):
      raise PermissionError(13, "Permission denied", str(path))
    return scandir(path)

  monkeypatch.setattr(layout.os, "scandir", scandir)
  with pytest.raises(PermissionError, match=r"Permission denied: .*b"):
    list_splits(tmp_path / "set")


def test_folder_is_never_written_over(tmp_path):
  write_images(tmp_path / "set", 5)
  prepare_folder(tmp_path / "set", tmp_path)
  with pytest.raises(FileExistsError, match="delete it to write it again"):
    prepare_folder(tmp_path / "set", tmp_path)


@pytest.mark.parametrize("name", ["Mine", "2nd", "my/set", "cifar10"])
def test_names_that_a_folder_cannot_have(tmp_path, name):
  write_images(tmp_path / "set", 5)
  with pytest.raises(ValueError, match="choose another --name"):
    prepare_folder(tmp_path / "set", tmp_path, name=name)


def test_name_of_a_folder_is_its_own(tmp_path):
  write_images(tmp_path / "My photos", 5)
  directory = prepare.prepare(
    "folder",
    source=str(tmp_path / "My photos"),
    data_dir=str(tmp_path / "data"),
  )
  assert directory.endswith("my_photos/1.0.0")


@pytest.mark.parametrize(
  ("name", "source", "message"),
  [
    ("fashion_mnst", None, "did you mean fashion_mnist"),
    ("folder", None, "folder needs --source"),
    ("folder", "nowhere", "nowhere is not a folder"),
    ("folder", "gs://b/a", "--source=gs://b/a: expected a path on a disk"),
    ("fashion_mnist", "nowhere", "nowhere is not a folder"),
  ],
)
def test_what_is_asked_for_must_be_there(tmp_path, name, source, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    prepare.prepare(name, source=source, data_dir=str(tmp_path))


def test_other_sets_need_tensorflow(tmp_path, monkeypatch):
  monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"pip install 'jssl\[prepare\]'"):
    prepare.prepare("cifar10", data_dir=str(tmp_path))


def run(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "jssl.data.prepare", *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
  )


def test_command(tmp_path):
  write_images(tmp_path / "set", 5)
  arguments = ("folder", "--source", tmp_path / "set", "--data_dir", tmp_path)
  result = run(*arguments)
  assert result.returncode == 0, result.stderr
  *_, counts, pixels, command = result.stdout.splitlines()
  assert re.fullmatch(
    rf"set: train \d, test \d images, .* KiB, in {tmp_path}/set/1\.0\.0", counts
  )
  image = open_source(
    "set", data_dir=str(tmp_path), image_size_px=64, in_memory=True
  ).fetch(np.arange(4))["image"]
  values = [
    ",".join(f"{x:.3f}" for x in of(image / 255, axis=(0, 1, 2)))
    for of in (np.mean, np.std)
  ]
  assert pixels == "Pixels in [0, 1]: mean {}, deviation {}.".format(*values)
  mean, std = (
    f"--config.model.mean={values[0]}",
    f"--config.model.std={values[1]}",
  )
  assert command == (
    f"Next: jssl train --config=folder:set {mean} {std} "
    f"--config.data.data_dir={tmp_path} --workdir=W"
  )


def test_the_next_command_of_a_set_with_a_config_is_that_config(
  fashion, tmp_path
):
  directory = prepare.prepare(
    "fashion_mnist", data_dir=str(tmp_path), source=str(fashion[0])
  )
  for is_folder, config in (
    (False, "simclr_fashion_mnist"),
    (
      True,
      r"folder:fashion_mnist --config.model.mean=\S+ --config.model.std=\S+",
    ),
  ):
    summary = prepare.summary(
      "fashion_mnist", directory, str(tmp_path), is_folder=is_folder
    )
    assert re.fullmatch(
      f"Next: jssl train --config={config} "
      f"--config.data.data_dir={tmp_path} --workdir=W",
      summary.splitlines()[-1],
    )


def test_command_fails_with_a_message_and_no_traceback(tmp_path):
  (tmp_path / "set").mkdir()
  result = run("folder", "--source", tmp_path / "set", "--data_dir", tmp_path)
  assert result.returncode == 1
  assert "error: " in result.stderr
  assert "has no images" in result.stderr
  assert "Traceback" not in result.stderr
  assert run().returncode != 0
  # A file where the data directory should be: nothing can be written.
  write_images(tmp_path / "full", 5)
  (tmp_path / "file").touch()
  source = tmp_path / "full"
  result = run("folder", "--source", source, "--data_dir", tmp_path / "file")
  assert result.returncode == 1
  assert "Traceback" not in result.stderr


def test_a_data_dir_that_is_not_utf8(tmp_path):
  write_images(tmp_path / "set", 5)
  data_dir = str(tmp_path / os.fsdecode(b"caf\xe9"))
  with pytest.raises(
    ValueError, match=r"--data_dir=.*: expected a name in UTF"
  ):
    prepare.prepare("folder", source=str(tmp_path / "set"), data_dir=data_dir)


def test_a_folder_that_a_shell_did_not_expand(tmp_path):
  with pytest.raises(ValueError, match=r"--data_dir='~/x': expected the path"):
    prepare.prepare("folder", source=str(tmp_path), data_dir="~/x")
