"""Images that are taken from a folder, and counts of files left out."""

import contextlib
import os

import pytest
from data.listing import list_source, list_splits
from PIL import Image

from jssl.data import layout, prepare
from jssl.data.open import open_source


def write(folder, number=5, suffix="png", start=0):
  folder.mkdir(parents=True, exist_ok=True)
  for i in range(start, start + number):
    Image.new("RGB", (4, 4), (i, len(folder.name), 0)).save(
      folder / f"{i}.{suffix}"
    )


def taken(splits):
  """The number of images of each class of all splits."""
  counts = {}
  for classes in splits.values():
    for name, paths in classes.items():
      counts[name] = counts.get(name, 0) + len(paths)
  return counts


def test_other_files_are_counted_by_reason(tmp_path):
  for name in ("a", "b"):
    write(tmp_path / name)
    write(tmp_path / name, suffix="webp", start=5)
    write(tmp_path / name / ".ipynb_checkpoints", 2)
    (tmp_path / name / "drawing.svg").touch()
    (tmp_path / name / "LICENSE").touch()
    (tmp_path / name / "away.png").symlink_to("nowhere.png")
  write(tmp_path / ".cache", 3)
  (tmp_path / "a" / "._0.png").touch()
  os.mkfifo(tmp_path / "a" / "pipe.png")
  splits, lines = list_source(tmp_path)
  assert taken(splits) == {"a": 10, "b": 10}
  hidden = ".cache/0.png, .cache/1.png, .cache/2.png, ..."
  assert lines == [
    f"8 hidden, or in hidden folders: {hidden}",
    "2 that are broken links: a/away.png, b/away.png",
    "2 with the suffix .svg: a/drawing.svg, b/drawing.svg",
    "2 without a suffix: a/LICENSE, b/LICENSE",
    "1 that are no regular files: a/pipe.png",
  ]


def test_files_that_vanish_while_they_are_listed(tmp_path, monkeypatch):
  write(tmp_path / "a")
  scan = os.scandir

  def scan_and_remove(folder):
    entries = list(scan(folder))
    (tmp_path / "a" / "3.png").unlink(missing_ok=True)
    return contextlib.nullcontext(entries)

  walk = layout._Walk(str(tmp_path), by_folder=True)
  monkeypatch.setattr(os, "scandir", scan_and_remove)
  found = [file.reason for file in walk.files(str(tmp_path / "a"))]
  assert sorted(found) == [*[""] * 4, "that have vanished"]


def test_nothing_is_said_of_a_folder_that_is_taken_whole(tmp_path):
  write(tmp_path / "a")
  write(tmp_path / "b")
  assert list_source(tmp_path)[1] == []


@pytest.mark.parametrize("outside", [False, True])
def test_links_that_form_a_loop(tmp_path, outside):
  """Each image is taken once, or the link is named."""
  source = tmp_path / "set"
  for name in ("a", "b"):
    write(source / name)
  if outside:
    for name, other in ("xy", "yx"):
      write(tmp_path / name)
      (tmp_path / name / "link").symlink_to(tmp_path / other)
    (source / "a" / "link").symlink_to(tmp_path / "x")
    splits, lines = list_source(source)
    assert taken(splits) == {"a": 15, "b": 5}
    assert lines == [
      "1 that are folders listed before: a/link/link/link",
      "Followed links out of the source, 3: a/link, ...",
    ]
    (source / "b" / "link").symlink_to(tmp_path / "x" / "link")
  else:
    (source / "a" / "link").symlink_to("../b")
    (source / "b" / "link").symlink_to("../a")
  message = f"{source}/a/link.* and {source}/b.* are the same folder"
  with pytest.raises(ValueError, match=message):
    list_splits(source)


def test_linked_folders_are_followed(tmp_path):
  write(tmp_path / "store" / "cats")
  write(tmp_path / "set" / "dog")
  (tmp_path / "set" / "cat").symlink_to(tmp_path / "store" / "cats")
  (tmp_path / "set" / "dog" / "again").symlink_to(tmp_path / "set")
  splits, lines = list_source(tmp_path / "set")
  assert taken(splits) == {"cat": 5, "dog": 5}
  assert lines == [
    "1 that are links to a folder around them: dog/again",
    "Followed links out of the source, 1: cat",
  ]


@pytest.mark.parametrize("name", ["train", "test", "Train", "valid"])
def test_a_class_may_have_the_name_of_a_split(tmp_path, name):
  for own in ("bus", "car", name):
    write(tmp_path / own, 6)
  assert taken(list_splits(tmp_path)) == {"bus": 6, "car": 6, name: 6}


def test_classes_beside_splits_are_refused(tmp_path):
  for split in ("train", "test"):
    for name in ("a", "b"):
      write(tmp_path / split / name)
  (tmp_path / "annotations").mkdir()
  (tmp_path / "annotations" / "boxes.xml").touch()
  assert taken(list_splits(tmp_path)) == {"a": 10, "b": 10}
  write(tmp_path / "unlabelled")
  with pytest.raises(ValueError, match=r"twice or beside .*'unlabelled'"):
    list_splits(tmp_path)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Valid"])
def test_names_of_the_validation_split(tmp_path, name):
  for split, number in (("train", 5), (name, 3), ("test", 2)):
    write(tmp_path / split, number)
  splits = list_splits(tmp_path)
  assert {k: len(v[""]) for k, v in splits.items()} == {
    "train": 5,
    "val": 3,
    "test": 2,
  }
  write(tmp_path / "val2")
  (tmp_path / "val2").rename(
    tmp_path / ("validation" if name != "validation" else "val")
  )
  with pytest.raises(ValueError, match="twice or beside"):
    list_splits(tmp_path)


def test_images_beside_the_splits_are_counted(tmp_path):
  write(tmp_path / "train")
  write(tmp_path / "test")
  write(tmp_path, 3)
  (tmp_path / "notes").mkdir()
  (tmp_path / "notes" / "a.txt").touch()
  assert list_source(tmp_path)[1] == [
    "3 beside the folders of splits: 0.png, 1.png, 2.png",
    "1 with the suffix .txt: notes/a.txt",
  ]


@pytest.mark.parametrize(
  "name", ["a\nb", "a\rb", " a", "a\t", os.fsdecode(b"caf\xe9")]
)
def test_class_names_that_tfds_would_change_are_refused(tmp_path, name):
  write(tmp_path / name)
  write(tmp_path / "b")
  with pytest.raises(ValueError, match="line break or are not UTF-8") as raised:
    list_splits(tmp_path)
  assert repr(name) in str(raised.value)


@pytest.mark.parametrize("name", ["two words", "c$a$t", "<b>", "été", "日本"])
def test_class_names_are_kept_exactly(tmp_path, name):
  write(tmp_path / "set" / name)
  write(tmp_path / "set" / "~")
  data_dir = str(tmp_path / "data")
  prepare.prepare(
    "folder", source=str(tmp_path / "set"), set_name="mine", data_dir=data_dir
  )
  source = open_source("mine", data_dir=data_dir, image_size_px=4)
  assert set(source.class_names) == {name, "~"}


def test_file_names_may_be_of_any_encoding(tmp_path):
  write(tmp_path / "set")
  odd = tmp_path / "set" / os.fsdecode(b"caf\xe9.png")
  (tmp_path / "set" / "0.png").rename(odd)
  data_dir = str(tmp_path / "data")
  options = {"source": str(tmp_path / "set"), "set_name": "mine"}
  prepare.prepare("folder", data_dir=data_dir, **options)
  source = open_source("mine", data_dir=data_dir, split="all", image_size_px=4)
  assert len(source) == 5
  odd.write_bytes(b"")
  with pytest.raises(ValueError, match="truncated or damaged") as raised:
    prepare.prepare("folder", data_dir=str(tmp_path / "other"), **options)
  assert r"caf\xe9.png: truncated" in str(raised.value)
