"""Paths in stores: in memory, and in a bucket of an emulator."""

import base64
import contextlib
import hashlib
import json
import os
import threading
import urllib.request
import uuid

import fsspec
import numpy as np
import pytest

from jssl.checkpoint import CheckpointError, manifest
from jssl.config import command_line
from jssl.runtime import files
from jssl.runtime import workdir as workdir_lib
from jssl.runtime.goodput import Clock
from jssl.runtime.paths import StorePath, as_path
from jssl.runtime.status import status
from jssl.runtime.workdir import lock
from jssl.train.writer import Writer


@pytest.fixture(params=["memory", "gs"])
def folder(request):
  """An empty folder of a store."""
  if request.param == "gs":
    request.getfixturevalue("bucket")
  name = uuid.uuid4().hex
  return as_path(f"{request.param}://bucket/{name}")


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache/jssl/fetched"


def names(paths):
  return sorted(path.name for path in paths)


def test_text_is_a_file_or_a_url(tmp_path):
  assert as_path(tmp_path) == tmp_path
  assert as_path("runs/a:b") == type(tmp_path)("runs/a:b")
  path = as_path("gs://bucket/runs") / "a" / "config.json"
  assert isinstance(path, StorePath)
  assert os.fspath(path) == str(path) == "gs://bucket/runs/a/config.json"
  # As `pathlib` makes of it.
  assert as_path(type(tmp_path)("gs://bucket/x")) == as_path("gs://bucket/x")
  assert str(path.parent.with_name("b")) == "gs://bucket/runs/b"
  assert path.relative_to("gs://bucket/runs").as_posix() == "a/config.json"
  assert (path.suffix, path.name) == (".json", "config.json")


def test_objects_are_files_and_folders(folder):
  assert not folder.exists()
  assert not folder.is_dir()
  assert [*folder.iterdir()] == []
  (folder / "a[1]").mkdir(parents=True)
  (folder / "a[1]" / "x.txt").write_text("± x")
  (folder / "a[1]" / "y.bin").write_bytes(b"\xff")
  (folder / "z.txt").write_bytes(b"z")
  assert names(folder.iterdir()) == ["a[1]", "z.txt"]
  assert [*(folder / "a[1]").glob("*.txt")] == [folder / "a[1]" / "x.txt"]
  assert [*folder.objects()] == ["a[1]/x.txt", "a[1]/y.bin", "z.txt"]
  assert (folder / "a[1]").is_dir()
  assert (folder / "z.txt").is_file()
  assert not (folder / "z.txt").is_dir()
  assert (folder / "a[1]" / "x.txt").read_text() == "± x"
  with (folder / "a[1]" / "y.bin").open("rb") as file:
    assert file.read() == b"\xff"
  (folder / "z.txt").rename(folder / "w.txt")
  (folder / "a[1]").rename(folder / "b" / "c")
  assert [*folder.objects()] == ["b/c/x.txt", "b/c/y.bin", "w.txt"]
  (folder / "w.txt").unlink()
  (folder / "w.txt").unlink(missing_ok=True)
  with pytest.raises(FileNotFoundError):
    (folder / "w.txt").unlink()
  (folder / "b").rmtree()
  assert not folder.exists()


def test_writes_are_whole_or_fail(folder):
  path = folder / "file"
  with files.open_atomically(path) as file:
    file.write(b"old")
  with contextlib.suppress(KeyError), files.open_atomically(path) as file:
    file.write(b"new")
    raise KeyError
  assert path.read_bytes() == b"old"
  files.write_text(path, os.fsdecode(b"caf\xe9"))
  assert path.read_text() == "caf\\udce9"
  with files.new_folder(folder / "made") as made:
    (made / "inside").mkdir()
    (made / "inside" / "x").write_text("1")
  with (
    pytest.raises(FileExistsError, match="expected the path of a new folder"),
    files.new_folder(folder / "made"),
  ):
    pass
  assert [*folder.objects()] == ["file", "made/inside/x"]
  assert files.read_json(folder / "none") is None
  files.remove_tree(folder / "none", ignore_errors=True)
  with pytest.raises(FileNotFoundError):
    files.remove_tree(folder / "none")


def test_a_listing_shows_what_another_process_writes(bucket):
  folder = as_path("gs://bucket/seen")
  (folder / "1" / "manifest.json").write_text("{}")
  assert status("gs://bucket/seen") == "running 0"
  checkpoints = folder / "checkpoints"
  (checkpoints / "1" / "manifest.json").write_text("{}")
  assert status("gs://bucket/seen") == "running 1"
  address = bucket["STORAGE_EMULATOR_HOST"] + "/upload/storage/v1/b/bucket/o"
  for name in ("checkpoints/12/manifest.json", "status.json"):
    request = urllib.request.Request(
      f"{address}?uploadType=media&name=seen/{name}",
      data=b'{"status": "complete"}',
      headers={"Content-Type": "application/octet-stream"},
    )
    urllib.request.urlopen(request).close()
  assert names(checkpoints.iterdir()) == ["1", "12"]
  assert status("gs://bucket/seen") == "complete 12"


@pytest.mark.parametrize(
  ("text", "retryable"), [("503 try again", True), ("Forbidden: x", False)]
)
def test_errors_of_a_store_are_those_of_files(monkeypatch, text, retryable):
  def fail(*_, **__):
    raise RuntimeError(text)

  path = as_path("memory://bucket/x")
  monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "pipe_file", fail)
  with pytest.raises(OSError, match=f"RuntimeError: {text}") as caught:
    files.write_text(path, "x")
  assert caught.value.filename == "memory://bucket/x"
  assert files.is_retryable(caught.value) == retryable
  assert not files.write_json_lines(path, [{"step": 1}])


@pytest.mark.parametrize("url", ["what://bucket/x", "S3://bucket/x"])
def test_a_scheme_that_fsspec_does_not_have(url):
  with pytest.raises(ValueError, match=rf"{url}: .*pip install 'jssl\[gcs\]'"):
    as_path(url).exists()


def test_a_copy_of_objects_is_kept_until_they_change(folder, cache):
  (folder / "a.txt").write_text("a")
  (folder / "b" / "c.txt").write_text("c")
  first = files.fetch(folder, ["a.txt", "b/c.txt"])
  assert first.parent == cache
  assert (first / "b/c.txt").read_text() == "c"
  (first / "a.txt").write_text("kept")
  assert files.fetch(folder, ["a.txt", "b/c.txt"]) == first
  (folder / "a.txt").write_text("changed")
  second = files.fetch(folder, ["a.txt", "b/c.txt"])
  assert (second / "a.txt").read_text() == "changed"
  with pytest.raises(FileNotFoundError):
    files.fetch(folder, ["missing"])
  assert files.fetch(first, ["a.txt"]) == first


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt"])
def test_no_object_is_copied_to_another_folder(folder, cache, name):
  (folder / "a.txt").write_text("a")
  with pytest.raises(
    ValueError, match=f"has an object '{name}': expected a na"
  ):
    files.fetch(folder, ["a.txt", name])
  assert not [*cache.rglob("*")]
  assert not (cache.parent / "out.txt").exists()


def test_a_config_and_the_files_beside_it(folder, cache):
  (folder / "base.py").write_text("SEED = 3\n")
  (folder / "own.py").write_text(
    "import pathlib, runpy\n"
    "from ml_collections import ConfigDict\n"
    "def get_config(arg='none'):\n"
    "  base = runpy.run_path(str(pathlib.Path(__file__).parent / 'base.py'))\n"
    "  if arg == 'bad':\n"
    "    raise KeyError(arg)\n"
    "  return ConfigDict({'seed': base['SEED'], 'arg': arg})\n"
  )
  url = f"{folder}/own.py"
  assert command_line.read_file(url).to_dict() == {"seed": 3, "arg": "none"}
  assert command_line.read_file(f"{url}:a:b").arg == "a:b"
  expected = rf"--config={url}:bad, line 6: KeyError: 'bad'"
  with pytest.raises(ValueError, match=expected):
    command_line.read_file(f"{url}:bad")
  with pytest.raises(FileNotFoundError, match=f"--config={folder}/no.py"):
    command_line.read_file(f"{folder}/no.py")


def test_rows_appear_at_intervals_and_before_a_checkpoint(folder, monkeypatch):
  values = {"loss": 1.0, "learning_rate": 0.1}
  path = folder / "metrics.jsonl"

  def steps():
    return [row["step"] for row in files.read_json_lines(path)]

  path.write_text('{"step": 1}\n{"step": 2}\n')
  with Writer(
    folder, total_steps=9, batch_size=8, seconds_at_peak=0.0
  ) as writer:
    writer.start(1)
    assert steps() == [1]
    writer.write(2, values)
    assert steps() == [1]
    writer.flush()
    assert steps() == [1, 2]
    monkeypatch.setattr(files, "_LOG_SECONDS", 0.0)
    writer.flush()  # Everything is there.
    writer._next_write = 0.0
    writer.write(3, values)
    assert steps() == [1, 2, 3]
    monkeypatch.setattr(files, "_LOG_SECONDS", 30.0)
    writer.write(4, values)
    writer.write(5, values)
    assert steps() == [1, 2, 3, 4]
  assert steps() == [1, 2, 3, 4, 5]


def test_the_row_of_a_clock_is_written_at_intervals_and_at_the_end(folder):
  clock = Clock(folder / "clock.jsonl", ["step"])
  with clock.running():
    clock.write()
    clock.record(to_step=7)
    clock.write()
    (row,) = files.read_json_lines(folder / "clock.jsonl")
    assert "to_step" not in row
  (row,) = files.read_json_lines(folder / "clock.jsonl")
  assert row["to_step"] == 7


def test_a_lock_is_an_object_that_its_holder_renews(folder, monkeypatch):
  monkeypatch.setattr(workdir_lib, "_STALE_SECONDS", 0.4)
  monkeypatch.setattr(workdir_lib, "_SETTLE_SECONDS", 0.05)
  path = folder / "lock"
  with lock(folder, "lock"):
    threading.Event().wait(0.3)
    assert "renewed" in json.loads(path.read_text())
    with (
      pytest.raises(ValueError, match=f"in use by process {os.getpid()}"),
      lock(folder, "lock"),
    ):
      pass
    holder = path.read_text()
  assert not path.exists()
  # It was killed.
  path.write_text(holder)
  with lock(folder, "lock"):
    assert path.read_text() != holder


def test_two_hosts_write_a_lock_at_once(folder, monkeypatch):
  monkeypatch.setattr(workdir_lib, "_SETTLE_SECONDS", 0.4)
  path = folder / "lock"
  other = '{"host": "elsewhere", "pid": 7}'
  timer = threading.Timer(0.2, path.write_text, [other])
  timer.start()
  with (
    pytest.raises(ValueError, match="in use by process 7 on elsewhere"),
    lock(folder, "lock"),
  ):
    pass
  timer.join()
  assert path.read_text() == other


def test_a_lock_is_created_by_one_host(monkeypatch):
  # The emulator of gs:// ignores the condition.
  folder = as_path(f"memory://bucket/{uuid.uuid4().hex}")
  other = '{"host": "elsewhere", "pid": 7}'
  read, reads = files.read_json, []

  def read_before_the_other_writes(path):
    reads.append(path)
    if len(reads) > 1:
      return read(path)
    path.write_text(other)
    return None

  monkeypatch.setattr(files, "read_json", read_before_the_other_writes)
  with (
    pytest.raises(ValueError, match="in use by process 7 on elsewhere"),
    lock(folder, "lock"),
  ):
    pass
  assert (folder / "lock").read_text() == other


def test_a_lock_that_was_lost_is_left_alone(folder, monkeypatch, caplog):
  monkeypatch.setattr(workdir_lib, "_STALE_SECONDS", 0.4)
  monkeypatch.setattr(workdir_lib, "_SETTLE_SECONDS", 0.05)
  other = '{"host": "elsewhere", "pid": 7}'
  with lock(folder, "lock"):
    (folder / "lock").write_text(other)
    threading.Event().wait(0.5)
  assert (folder / "lock").read_text() == other
  assert "lost it to another run" in caplog.text


def test_an_error_while_reading_is_an_os_error(monkeypatch):
  path = as_path(f"memory://bucket/{uuid.uuid4().hex}")
  path.write_bytes(bytes(9))
  with path.open("rb") as file:
    assert file.read(4) == bytes(4)
  file = path.open("rb")

  def fail(*args):
    raise RuntimeError("reset by peer")

  monkeypatch.setattr(fsspec.implementations.memory.MemoryFile, "read", fail)
  with pytest.raises(OSError, match="RuntimeError: reset by peer") as error:
    file.read()
  assert error.value.filename == str(path)
  with pytest.raises(ValueError, match="expected mode"):
    path.open("wb")


@pytest.mark.usefixtures("bucket")
def test_the_store_knows_the_digests_of_a_checkpoint(tmp_path):
  saved = as_path("gs://bucket/digests/8")
  (saved / "backbone" / "d" / "0").write_bytes(b"numbers")
  (saved / "_METADATA").write_bytes(b"{}")
  manifest.write(saved, {"w": ["float32", [2]]}, {})
  digest = base64.b64encode(hashlib.md5(b"numbers").digest()).decode()
  listed = json.loads((saved / manifest.NAME).read_text())["files"]
  assert listed["backbone/d/0"] == f"md5:{digest}"
  manifest.check_files(saved)

  # A copy on disk, and a copy of a checkpoint from a disk.
  for name in saved.objects():
    (tmp_path / "8" / name).parent.mkdir(parents=True, exist_ok=True)
    (saved / name).download(tmp_path / "8" / name)
  manifest.check_files(tmp_path / "8")
  manifest.write(tmp_path / "8", {"w": ["float32", [2]]}, {})
  copied = as_path("gs://bucket/digests/9")
  copied.upload(tmp_path / "8")
  manifest.check_files(copied)

  for directory in (saved, copied):
    (directory / "backbone" / "d" / "0").write_bytes(b"numbres")
    with pytest.raises(CheckpointError, match=r"1 of 2 files .*backbone/d/0"):
      manifest.check_files(directory)


def test_arrays_of_a_store_are_read_into_memory(folder):
  from jssl.probe import features

  path = features.path(folder, dataset="d", split="s", name="n", key="k")
  h = np.arange(12, dtype=np.float32).reshape(4, 3)
  features.write(
    path, 4, [(h[:2], np.array([0, 1])), (h[2:], np.array([1, 0]))]
  )
  found = features.cached(path, num_classes=2)
  np.testing.assert_array_equal(found.h, h)
  np.testing.assert_array_equal(found.labels, [0, 1, 1, 0])
  path.write_bytes(path.read_bytes()[:-4])
  assert features.cached(path, num_classes=2) is None
