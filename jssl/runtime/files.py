"""Files of a run, on a disk that is full, or away, for a while."""

import contextlib
import errno
import os
import pathlib
import shutil

from absl import logging

# What ends by itself, as of a file system over a network, or when somebody
# makes room.
_PASSING = frozenset(
  {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
  }
)


def passes(error: Exception) -> bool:
  """Whether it is a disk's, and the same would go well at another time."""
  return isinstance(error, OSError) and error.errno in _PASSING


def size(count: float) -> str:
  """Returns a number of bytes as it is said."""
  return (
    f"{count / 2**20:,.1f} MiB"
    if count >= 2**20
    else f"{count / 2**10:.1f} KiB"
  )


def room(path: str | os.PathLike) -> str:
  """Returns a sentence on the room that is left where `path` is or will be."""
  there = pathlib.Path(path).absolute()
  try:
    while not there.exists():
      there = there.parent
    free = f"{size(shutil.disk_usage(there).free)} are free"
  except OSError as error:
    return f"{there} can't be asked how much room it has: {error}"
  return (
    f"{free} in {there}. Where that is too little make room, as by a lower "
    "checkpoint.keep_last, or by deleting `damaged`, `broken` and `features` "
    "of workdirs; then the same command goes on from the last checkpoint"
  )


def replace(path: pathlib.Path, text: str) -> None:
  """Writes a file that is there whole or not at all.

  Raises:
    OSError: with the name of the file, which what writes doesn't know.
  """
  # Of this process: others may write the same file.
  temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
  try:
    temporary.write_text(text)
    temporary.replace(path)
  except OSError as error:
    # A part of it only takes room.
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    raise OSError(error.errno, error.strerror, str(path)) from error


class Rows:
  """A file of rows, to which whole ones are added.

  It has all rows in memory too. Where one can't be written the whole file is
  written anew with the next, or when it is closed: nothing is lost, whatever
  became of the file meanwhile.
  """

  def __init__(self, path: pathlib.Path, rows: list[str]):
    """Writes the file anew, with `rows`, lines without their ends."""
    self._path, self._rows = path, [*rows]
    self._file: int | None = None
    self._open()

  def _open(self) -> None:
    replace(self._path, "".join(f"{row}\n" for row in self._rows))
    self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)

  def _forget(self) -> None:
    """Closes what can't be relied on any more."""
    descriptor, self._file = self._file, None
    if descriptor is not None:
      with contextlib.suppress(OSError):
        os.close(descriptor)

  def _append(self, descriptor: int, row: str) -> None:
    end = os.fstat(descriptor).st_size
    left = f"{row}\n".encode()
    try:
      while left:  # A disk that gets full takes a part.
        left = left[os.write(descriptor, left) :]
    except OSError:
      with contextlib.suppress(OSError):
        os.truncate(descriptor, end)
      raise

  def add(self, row: str) -> None:
    """Adds a row; tells where it must wait."""
    self._rows.append(row)
    self._write(row)

  def wait(self) -> bool:
    """Writes what waits, if there is room now; whether some still waits."""
    if self._file is None:
      self._write("")
    return self._file is None

  def _write(self, row: str) -> None:
    try:
      if self._file is None:
        self._open()
      else:
        self._append(self._file, row)
    except OSError as error:
      self._forget()
      logging.error(
        "%s: %s; its rows are kept, and written with the next",
        self._path,
        error.strerror,
      )

  def close(self) -> None:
    """Closes the file.

    Raises:
      OSError: not all of its rows could be written.
    """
    try:
      # Over a network some files say only now what they couldn't keep.
      if self._file is not None:
        os.fsync(self._file)
    except OSError:
      self._forget()
    try:
      if self._file is None:
        self._open()
    except OSError as error:
      needed = size(sum(len(row) + 1 for row in self._rows))
      raise OSError(
        error.errno,
        f"{error.strerror}, its last rows are lost; all take {needed}",
        str(self._path),
      ) from error
    finally:
      self._forget()
