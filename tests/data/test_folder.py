"""Preparing a folder: labels, names, problems, processes and interruptions."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data.damage import jpeg
from data.listing import list_source
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from jssl.data import folder, manifest, parts, prepare
from jssl.data.encode import Options
from jssl.data.open import open_source


def write(path, seed=0, *, mode="RGB", size_px=6):
  path.parent.mkdir(parents=True, exist_ok=True)
  shape = (size_px, size_px) if mode == "L" else (size_px, size_px, 3)
  pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  if path.suffix == ".jpg":
    path.write_bytes(jpeg(pixels))
  else:
    Image.fromarray(pixels).save(path)


@pytest.fixture
def source(tmp_path):
  """Two classes of nested folders, gray and coloured images."""
  tfds.disable_progress_bar()
  for i in range(28):
    suffix = ("png", "jpg")[i % 2]
    path = tmp_path / "set" / "ab"[i % 7 > 3] / f"deep{i % 3}" / f"{i}.{suffix}"
    write(path, i, mode="L" if i % 5 else "RGB")
  return tmp_path / "set"


def prepared(source, data_dir, *, workers=1, **options):
  return folder.prepare_folder(
    source, name="mine", data_dir=data_dir, workers=workers, **options
  )


def contents(directory):
  return {path.name: path.read_bytes() for path in directory.iterdir()}


def names(data_dir, split="train"):
  opened = open_source(
    "mine", data_dir=str(data_dir), split=split, image_size_px=6
  )
  return opened.fetch_names(np.arange(len(opened)))


class OfTfds(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """The same files in TFDS's own order."""

  name = "of_tfds"
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = {"file_name": tfds.features.Text()}
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {s: self._generate_examples(names) for s, names in FILES.items()}

  def _generate_examples(self, names):
    for name in names:
      yield os.fsencode(name), {"file_name": name}


FILES = {}


def test_the_order_of_records_is_that_of_tfds(source, tmp_path):
  prepared(source, tmp_path / "data")
  FILES.update({s: names(tmp_path / "data", s) for s in ("train", "test")})
  assert (len(FILES["train"]), len(FILES["test"])) == (25, 3)
  builder = OfTfds(data_dir=str(tmp_path / "data"))
  builder.download_and_prepare(file_format="array_record")
  for split, found in FILES.items():
    records = builder.as_data_source(split=split)
    assert [record["file_name"].decode() for record in records] == found


def test_records_are_those_of_tfds(source, tmp_path):
  """Features of an example may be in any order."""
  directory, _ = prepared(source, tmp_path / "data")
  builder = tfds.builder_from_directory(str(directory))
  info = builder.info.features.get_serialized_info()
  serializer = tfds.core.ExampleSerializer(info)
  records = builder.as_data_source(
    split="train", decoders={"image": tfds.decode.SkipDecoding()}
  )
  raw = records.data_source.__getitems__(range(len(records)))
  for record, written in zip(records, raw, strict=True):
    parsed = tf_example_pb2.Example.FromString(written)
    assert parsed == serializer.get_tf_example(record)
    assert written == parsed.SerializeToString(deterministic=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_set_does_not_depend_on_parts_and_processes(
  source, tmp_path, monkeypatch, workers
):
  whole, summary = prepared(source, tmp_path / "whole")
  monkeypatch.setattr(manifest, "PART_IMAGES", 3)
  in_parts, same = prepared(source, tmp_path / "parts", workers=workers)
  assert contents(in_parts) == contents(whole)
  assert same == summary.replace(
    str(tmp_path / "whole"), str(tmp_path / "parts")
  )
  # A first part of gray images has been encoded again.
  opened = tfds.data_source("mine", data_dir=str(tmp_path / "parts"))
  for record in opened["train"]:
    path = source / record["file_name"].decode()
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    atol = 0 if path.suffix == ".png" else 40
    np.testing.assert_allclose(record["image"], pixels, atol=atol)


KILLED = """
import os, pathlib, signal, sys
import tensorflow_datasets as tfds
from jssl.data import folder, manifest
manifest.PART_IMAGES = 5
source, data_dir, place = sys.argv[1:]
finish, write = manifest.Manifest.finish, tfds.core.ExampleWriter.write
def finish_and_die(self, part, *stored):
  finish(self, part, *stored)
  if part.number == 2:
    os.kill(os.getpid(), signal.SIGKILL)
def write_and_die(self, *file):
  write(self, *file)
  os.kill(os.getpid(), signal.SIGKILL)
if place == "encoding":
  manifest.Manifest.finish = finish_and_die
else:
  tfds.core.ExampleWriter.write = write_and_die
folder.prepare_folder(
  pathlib.Path(source), name="mine", data_dir=pathlib.Path(data_dir), workers=1
)
"""


def kill(source, data_dir, place):
  arguments = [source, data_dir, place]
  done = subprocess.run(
    [sys.executable, "-c", KILLED, *map(str, arguments)], check=False
  )
  assert done.returncode == -9
  assert not (data_dir / "mine" / "1.0.0").exists()


@pytest.mark.parametrize(
  ("place", "encoded"), [("encoding", 28 - 13), ("writing", 0)]
)
def test_a_killed_command_continues(
  source, tmp_path, monkeypatch, place, encoded
):
  whole, _ = prepared(source, tmp_path / "whole")
  monkeypatch.setattr(manifest, "PART_IMAGES", 5)
  kill(source, tmp_path / "data", place)
  calls = []
  encode = parts.encode
  monkeypatch.setattr(
    parts, "encode", lambda data, **o: calls.append(data) or encode(data, **o)
  )
  directory, _ = prepared(source, tmp_path / "data")
  assert contents(directory) == contents(whole)
  # Images of parts with other channels are read twice.
  assert encoded <= len(calls) <= encoded + 5
  left = {path.name for path in (tmp_path / "data").glob("**/*")}
  assert left - {"downloads", "extracted"} == {
    "mine",
    "1.0.0",
    *contents(directory),
  }


def test_a_changed_source_is_read_anew(source, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(manifest, "PART_IMAGES", 5)
  kill(source, tmp_path / "data", "writing")
  write(next(source.rglob("*.png")), 99)
  directory, _ = prepared(source, tmp_path / "data")
  assert caplog.text.count("Files or flags have changed since the last") == 1
  assert contents(directory) == contents(prepared(source, tmp_path / "new")[0])


def test_two_commands_for_the_same_set(source, tmp_path):
  parts = tmp_path / "data" / ".mine-1.0.0.parts"
  match = "another process prepares this set"
  with manifest.Manifest(parts), pytest.raises(ValueError, match=match):
    prepared(source, tmp_path / "data")


@pytest.mark.parametrize("name", ["manifest.sqlite", "000002.*.records"])
def test_damage_to_what_a_killed_command_left(source, tmp_path, name):
  kill(source, tmp_path / "data", "writing")
  (path,) = (tmp_path / "data" / ".mine-1.0.0.parts").glob(name)
  path.write_bytes(path.read_bytes()[:100][::-1])
  with pytest.raises(OSError, match=r"delete .*\.mine-1\.0\.0\.parts"):
    prepared(source, tmp_path / "data")


def test_damage_is_told_as_a_whole_and_omitted_without_reading_again(
  source, tmp_path, monkeypatch
):
  damaged = sorted(source.rglob("*.png"))[::5]
  for path in damaged:
    path.write_bytes(path.read_bytes()[:-60])
  with pytest.raises(ValueError, match=r"stored: 3; .*_damaged:\n") as raised:
    prepared(source, tmp_path / "data")
  lines = str(raised.value).splitlines()[1:]
  assert [line.partition(": truncated")[0] for line in lines] == [
    str(path.relative_to(source)) for path in damaged
  ]
  monkeypatch.setattr(parts, "encode", None)
  directory, summary = prepared(
    source, tmp_path / "data", options=Options(skip_damaged=True)
  )
  assert "3 truncated or damaged image: " in summary
  written = (directory / "passed_over.jsonl").read_text().splitlines()
  files = [json.loads(line)["file"] for line in written]
  assert sorted(files) == [str(path.relative_to(source)) for path in damaged]
  assert len(names(tmp_path / "data", "all")) == 25


@pytest.fixture
def failing(source, monkeypatch):
  """Returns `(error) -> None`: a file cannot be read; None: it can again."""
  path, read = source / "a" / "deep0" / "0.png", pathlib.Path.read_bytes

  def fail(error):
    def read_or_fail(self):
      if self == path and error:
        raise error
      return read(self)

    monkeypatch.setattr(pathlib.Path, "read_bytes", read_or_fail)

  return fail


@pytest.mark.parametrize(
  "error",
  [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No")],
)
def test_an_unreadable_file_is_named_or_omitted(
  source, tmp_path, failing, error
):
  skip = Options(skip_damaged=True)
  failing(error)
  match = rf"stored: 1; .*:\na/deep0/0\.png: unreadable .{error.strerror}"
  with pytest.raises(ValueError, match=match):
    prepared(source, tmp_path / "data")
  _, summary = prepared(source, tmp_path / "skipped", options=skip)
  assert "1 unreadable: a/deep0/0.png" in summary
  failing(None)  # The bytes of the file are the same.
  prepared(source, tmp_path / "data", options=skip)
  assert len(names(tmp_path / "data", "all")) == 28


def test_a_failing_disk_and_a_removed_one_stop(source, tmp_path, failing):
  skip = Options(skip_damaged=True)
  failing(OSError(5, "Input/output error"))
  with pytest.raises(OSError, match=r"output error: '.*/a/deep0/0\.png'"):
    prepared(source, tmp_path / "data", options=skip)
  task = parts._Task(None, None, "", tmp_path / "removed", None, skip)
  entry = manifest.Entry(0, "0.png", -1, manifest.Stored())
  with pytest.raises(FileNotFoundError):
    parts._encode_entry(entry, task)


def test_an_image_that_is_too_large_for_the_memory(source, tmp_path, failing):
  failing(MemoryError())
  match = r"\na/deep0/0\.png: not enough memory for 6 x 6 px; use fewer --work"
  with pytest.raises(ValueError, match=match):
    prepared(source, tmp_path / "data", options=Options(skip_damaged=True))


def test_long_lists_are_cut(source, tmp_path):
  for path in source.rglob("*.*"):
    path.write_bytes(b"")
  for i in range(30):
    (source / f"log.{i}").touch()
  with pytest.raises(ValueError, match="stored: 28; ") as raised:
    prepared(source, tmp_path / "data")
  *lines, last = str(raised.value).splitlines()[1:]
  assert len(lines) == 20
  assert last.startswith("and 8 more, see ")
  listed = pathlib.Path(last.removeprefix("and 8 more, see ")).read_text()
  assert len(listed.splitlines()) == 28 + 30
  lines = list_source(source)[1]
  assert (len(lines), lines[-1]) == (21, "10 more reasons")


def test_a_split_that_is_all_damaged(tmp_path):
  for split in ("train", "test"):
    for i in range(3):
      write(tmp_path / "set" / split / f"{i}.png")
  for path in (tmp_path / "set" / "test").iterdir():
    path.write_bytes(b"")
  with pytest.raises(ValueError, match="all images of the split test are"):
    prepared(
      tmp_path / "set", tmp_path / "data", options=Options(skip_damaged=True)
    )


def test_the_summary(source, tmp_path, capsys):
  (source / "a" / "notes.txt").touch()
  prepare.prepare(
    "folder",
    source=str(source),
    set_name="mine",
    data_dir=str(tmp_path / "data"),
  )
  lines = capsys.readouterr().out.splitlines()
  table = [line.split() for line in lines[-7:-2]]
  assert table[0] == ["class", "train", "test"]
  assert table[2:] == [["a", "14", "2"], ["b", "11", "1"], ["all", "25", "3"]]
  assert lines[-1] == "1 with the suffix .txt: a/notes.txt"


# Labels.


def write_csv(path, *rows):
  with path.open("w", newline="") as file:
    csv.writer(file).writerows(rows)
  return path


def test_labels_of_a_csv_file(source, tmp_path):
  paths = sorted(source.rglob("*.*g"))
  rows = [
    (f"./{path.relative_to(source)}", "even" if i % 2 else "odd")
    for i, path in enumerate(paths[:20])
  ]
  labels = write_csv(
    tmp_path / "labels.csv",
    ("file", "label"),
    *rows,
    rows[3],
    (),
    ("../outside.png", "odd"),
    ("a/two\nlines.png", "odd"),
  )
  prepared(source, tmp_path / "data", labels=labels)
  found = {}
  for record in tfds.data_source("mine", data_dir=tmp_path / "data")["train"]:
    found[record["file_name"].decode()] = record["label"]
  assert len(found) == 18
  for name, label in rows:
    name = name.removeprefix("./")
    assert found.get(name, ["even", "odd"].index(label)) == (label == "odd")
  _, lines = list_source(source, labels=labels)
  missing = "in labels.csv, but no images of the source"
  assert lines == [
    "8 without a line in labels.csv: "
    + ", ".join(str(p.relative_to(source)) for p in paths[20:23])
    + ", ...",
    f"2 {missing}: ../outside.png, a/two\\nlines.png",
    f"1 of repeated lines in labels.csv: {paths[3].relative_to(source)}",
  ]


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    (
      [("a/1.png", "x"), ("a/1.png", "y")],
      "line 2 gives a/1.png the label",
    ),
    ([("a/1.png",)], r"line 1 has \['a/1.png'\]; expected a file name and"),
    ([("a/1.png", "")], "line 1 has .*expected a file name and a label"),
    (
      [("z/1.png", "x")],
      "names no image of .* such as a/0.png, got z",
    ),
    ([("name", "label")], "names no image of .* got no line"),
    ([("a/0.png", "x\ny"), ("a/1.png", "x")], "contain a line break"),
    ([("a/0.png", "x"), ("a/1.png", "x")], "class x has 2 image"),
  ],
)
def test_labels_that_do_not_fit(tmp_path, rows, message):
  for i in range(4):
    write(tmp_path / "set" / "a" / f"{i}.png")
  labels = write_csv(tmp_path / "labels.csv", *rows)
  with pytest.raises(ValueError, match=message):
    prepared(tmp_path / "set", tmp_path / "data", labels=labels)
  assert not [*(tmp_path / "data").iterdir()]


def test_a_tree_without_labels(tmp_path):
  for name in ("0.png", "a/0.png", "a/b/c/0.png", "train/x/0.png", "z/0.png"):
    write(tmp_path / "set" / name)
  prepared(tmp_path / "set", tmp_path / "data", unlabelled=True)
  opened = open_source(
    "mine", data_dir=str(tmp_path / "data"), split="all", image_size_px=6
  )
  assert (len(opened), opened.num_classes) == (5, 0)
  assert "train/x/0.png" in opened.fetch_names(np.arange(5))
  with pytest.raises(ValueError, match="--unlabelled: expected only one"):
    prepared(
      tmp_path / "set",
      tmp_path / "other",
      unlabelled=True,
      labels=pathlib.Path("x.csv"),
    )


def test_splits_of_a_tree_without_labels(tmp_path):
  for name in ("train/a/0.png", "train/b/c/0.png", "test/0.png"):
    write(tmp_path / "set" / name)
  prepared(tmp_path / "set", tmp_path / "data", unlabelled=True)
  assert names(tmp_path / "data", "test") == ["test/0.png"]


# Names.


def test_a_name_of_several_lines(tmp_path, capsys):
  for i in range(5):
    write(tmp_path / "set" / f"{i}\n.png")
  (tmp_path / "set" / "a\nb.txt").touch()
  _, summary = prepared(tmp_path / "set", tmp_path / "data")
  assert r"1 with the suffix .txt: a\nb.txt" in summary.splitlines()
  found = names(tmp_path / "data", "all")
  assert sorted(found) == [f"{i}\n.png" for i in range(5)]


def test_classes_of_one_name(tmp_path):
  """Both forms of é look alike."""
  for name in ("caf\u00e9", "cafe\u0301"):
    for i in range(3):
      write(tmp_path / "set" / name / f"{i}.png")
  match = r"same name .*'cafe\\u0301', 'caf\\xe9'"
  with pytest.raises(ValueError, match=match):
    prepared(tmp_path / "set", tmp_path / "data")
