"""Files on a disk that is full for a while."""

import contextlib
import errno
import resource

import pytest

from jssl.runtime import files


@contextlib.contextmanager
def no_file_beyond(size):
  """A write takes what fits, and then fails."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_rows_wait_for_room_and_none_is_half_written(tmp_path):
  path = tmp_path / "rows"
  file = files.Rows(path, ["0 first"])
  file.add("1 second")
  there = path.read_text()
  with no_file_beyond(len(there) + 3):
    # Three of its bytes were taken, and are taken back.
    file.add("2 third")
    assert path.read_text() == there == "0 first\n1 second\n"
    file.add("3 fourth")
    assert file.wait()
    assert path.read_text() == there
  assert [*tmp_path.iterdir()] == [path]
  assert not file.wait()
  assert path.read_text() == there + "2 third\n3 fourth\n"
  file.add("4 fifth")
  five = "0 first\n1 second\n2 third\n3 fourth\n4 fifth\n"
  assert path.read_text() == five
  file.add("5 sixth")
  file.close()
  assert path.read_text() == five + "5 sixth\n"


def test_what_waits_is_written_at_the_end(tmp_path):
  file = files.Rows(tmp_path / "rows", [])
  with no_file_beyond(1):
    file.add("a row")
  assert (tmp_path / "rows").read_text() == ""
  file.close()
  assert (tmp_path / "rows").read_text() == "a row\n"


def test_what_cannot_be_written_at_the_end_is_told(tmp_path):
  file = files.Rows(tmp_path / "rows", ["x" * 1023])
  with no_file_beyond(1):
    file.add("y" * 1023)
    with pytest.raises(OSError, match=r"rows are lost; all take 2\.0 KiB") as e:
      file.close()
  assert files.passes(e.value)
  assert str(tmp_path / "rows") in str(e.value)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
  path = tmp_path / "file"
  files.replace(path, "old")
  with no_file_beyond(2), pytest.raises(OSError, match="too large"):
    files.replace(path, "new")
  assert path.read_text() == "old"
  assert [*tmp_path.iterdir()] == [path]


def test_what_would_come_back_does_not_pass():
  assert files.passes(OSError(errno.ESTALE, "stale"))
  assert not files.passes(PermissionError(errno.EACCES, "no"))
  assert not files.passes(FileNotFoundError(errno.ENOENT, "not there"))
  assert not files.passes(ValueError(errno.ENOSPC))


def test_room_is_that_of_the_disk_where_a_folder_will_be(tmp_path):
  said = files.room(tmp_path / "not" / "there")
  assert f"MiB are free in {tmp_path}. " in said
