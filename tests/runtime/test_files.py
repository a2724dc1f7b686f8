"""Files on a disk that is full for a while."""

import contextlib
import errno
import json
import os
import resource

import pytest

from jssl.runtime import files


@contextlib.contextmanager
def file_size_limit(size):
  """Writes beyond `size` bytes of a file fail."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
  path = tmp_path / "file"
  files.write_text(path, "old")
  with file_size_limit(2), pytest.raises(OSError, match="too large"):
    files.write_text(path, "new")
  assert path.read_text() == "old"
  assert [*tmp_path.iterdir()] == [path]


def test_undecodable_names_are_escaped(tmp_path):
  path = tmp_path / "page.md"
  files.write_text(path, "± " + os.fsdecode(b"caf\xe9"))
  assert path.read_text(encoding="utf-8") == "± caf\\udce9"


def test_json(tmp_path):
  files.write_json(tmp_path / "file", {"b": 1, "a": [2]})
  assert json.loads((tmp_path / "file").read_text()) == {"a": [2], "b": 1}


def test_errors_that_recur_are_not_retryable():
  assert files.is_retryable(OSError(errno.ESTALE, "stale"))
  assert not files.is_retryable(PermissionError(errno.EACCES, "no"))
  assert not files.is_retryable(FileNotFoundError(errno.ENOENT, "missing"))
  assert not files.is_retryable(ValueError(errno.ENOSPC))


def test_disk_space_of_a_folder_that_does_not_exist(tmp_path):
  advice = files.disk_space_advice(tmp_path / "not" / "there")
  assert f"MiB are free in {tmp_path}. " in advice
