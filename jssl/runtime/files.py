"""Atomic writes, on disk and in stores, and advice for a disk that is full."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import pathlib
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from absl import logging

from jssl.runtime.paths import Path, StorePath, as_path, is_url

# Errors of a full disk or a network file system: a later attempt may succeed.
_RETRYABLE = frozenset(
  {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
  }
)

# More than any data set has files. A larger limit slows programs that close
# every possible descriptor before they start a child process.
_MAX_OPEN_FILES = 2**16

# Seconds between two writes of a log in a store, each of the whole log.
_LOG_SECONDS = 30.0


def is_retryable(error: Exception) -> bool:
  """True if a file system raised `error` and a later attempt may succeed."""
  return isinstance(error, OSError) and error.errno in _RETRYABLE


def format_bytes(count: float) -> str:
  """Returns a number of bytes in KiB or MiB."""
  if count >= 2**20:
    return f"{count / 2**20:,.1f} MiB"
  return f"{count / 2**10:.1f} KiB"


def disk_space_advice(path: str | os.PathLike) -> str:
  """Returns the free space at `path`, which may not exist, and how to get more.

  Args:
    path: a workdir.
  """
  if isinstance(as_path(path), StorePath):
    return "Run the same command to resume from the last checkpoint"
  folder = pathlib.Path(path).absolute()
  try:
    while not folder.exists():
      folder = folder.parent
    free = f"{format_bytes(shutil.disk_usage(folder).free)} are free in"
  except OSError as error:
    free = f"the free space is unknown ({error}) in"
  return (
    f"{free} {folder}. To make room, lower checkpoint.keep_last or delete "
    "`damaged`, `broken` and `features` in workdirs; then run the same command "
    "to resume from the last checkpoint"
  )


def raise_open_files_limit() -> int:
  """Raises the soft limit of open files as far as allowed; returns it.

  A set of many files, kept open, would leave none for checkpoints.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if soft == resource.RLIM_INFINITY:
    return sys.maxsize
  limit = _MAX_OPEN_FILES
  if hard != resource.RLIM_INFINITY:
    limit = min(hard, limit)
  if soft < limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
  return max(soft, limit)


def _temporary(path: pathlib.Path) -> pathlib.Path:
  # Named after the process: others, also of other hosts, may write the file.
  process = f"{socket.gethostname()}.{os.getpid()}"
  return path.with_name(f"{path.name}.{process}.tmp")


def write_text(path: Path, text: str) -> None:
  r"""Writes a file atomically: on disk by a temporary file and a rename.

  Bytes of file names that are not UTF-8 become escapes, such as `\udce9`.

  Raises:
    OSError: with the name of the final file.
  """
  if isinstance(path, StorePath):
    path.write_text(text, errors="backslashreplace")
    return
  temporary = _temporary(path)
  try:
    temporary.write_text(text, "utf-8", errors="backslashreplace")
    temporary.replace(path)
  except OSError as error:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
  """Opens a file under a temporary name and renames it at the end.

  A file for a store is temporary and local, and is uploaded at the end.
  """
  if isinstance(path, StorePath):
    with tempfile.TemporaryDirectory() as folder:
      local = pathlib.Path(folder, path.name)
      with local.open("wb") as file:
        yield file
      path.upload(local)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = _temporary(path)
  try:
    with temporary.open("wb") as file:
      yield file
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[pathlib.Path]:
  """Yields a temporary folder that becomes `path` if no error is raised.

  In a store, its files appear one after another.

  Raises:
    FileExistsError: if `path` is a file, or a folder with files.
  """
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise FileExistsError(
      f"{path} exists: expected the path of a new folder, or an empty one"
    )
  if isinstance(path, StorePath):
    with tempfile.TemporaryDirectory() as temporary:
      yield pathlib.Path(temporary)
      path.upload(pathlib.Path(temporary))
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
    folder = pathlib.Path(temporary, path.name)
    folder.mkdir()
    yield folder
    if path.exists():
      path.rmdir()
    folder.rename(path)


def remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
  """Removes a folder; as far as possible if errors are ignored."""
  if isinstance(path, StorePath):
    with contextlib.suppress(*[OSError] * ignore_errors):
      path.rmtree()
  else:
    shutil.rmtree(path, ignore_errors=ignore_errors)


def fetch(folder: Path, names: Sequence[str]) -> pathlib.Path:
  """Returns a local folder with some files of `folder`: itself, or a copy.

  Objects of a store are copied once, to `~/.cache/jssl/fetched`; changed ones
  are copied again.

  Raises:
    FileNotFoundError: if a store has no such object.
    ValueError: if a name leaves the folder.
  """
  if not isinstance(folder, StorePath):
    return folder
  # Objects may have any names, also some that lead out of the copy.
  for name in names:
    if name.startswith("/") or ".." in name.split("/"):
      raise ValueError(
        f"{folder} has an object {name!r}: expected a name without '..' and "
        "without '/' in front; rename it"
      )
  versions = [folder.call("ukey", str(folder / name)) for name in names]
  about = repr((str(folder), [*names], versions)).encode()
  target = user_cache() / "fetched" / hashlib.sha256(about).hexdigest()[:16]
  with make_once(target) as missing:
    if missing:
      with new_folder(target) as copies:
        for name in names:
          (copies / name).parent.mkdir(parents=True, exist_ok=True)
          (folder / name).download(copies / name)
  return target


@contextlib.contextmanager
def make_once(path: pathlib.Path) -> Iterator[bool]:
  """Yields True if `path` does not exist and this process is to make it.

  Other processes wait. On a file system without locks they make it too, so it
  has to be written atomically.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.with_name(f"{path.name}.lock").open("w") as lock:
    with contextlib.suppress(OSError):
      fcntl.flock(lock, fcntl.LOCK_EX)
    yield not path.exists()


def user_cache() -> pathlib.Path:
  """Returns the folder of files that may be removed: `~/.cache/jssl`."""
  caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(caches) / "jssl"


def write_json(path: Path, value: Any) -> None:
  """Writes JSON atomically, with sorted keys."""
  write_text(path, json.dumps(value, indent=1, sort_keys=True))


def check_expanded(key: str, path: str) -> None:
  """Raises ValueError, with a flag or config key, for a path like `~/x`."""
  if path.startswith("~"):
    raise ValueError(
      f"{key}={path!r}: expected the path of a file or folder, such as "
      "$HOME/data; shells do not expand ~ in a flag"
    )


def check_local(flag: str, folder: str) -> None:
  """Raises ValueError, with a flag, for the URL of a store."""
  if is_url(folder):
    raise ValueError(f"{flag}={as_path(folder)}: expected a path on a disk")


def check_utf8(flag: str, folder: str) -> None:
  """Raises ValueError for a folder whose name TensorStore cannot open."""
  try:
    folder.encode()
  except UnicodeEncodeError:
    raise ValueError(
      f"{flag}={folder!r}: expected a name in UTF-8; rename the folder"
    ) from None


def read_json(path: Path) -> dict[str, Any] | None:
  """Reads a JSON object; None if the file is missing, damaged or no object."""
  try:
    value = json.loads(path.read_bytes())
  except (FileNotFoundError, ValueError):
    return None
  return value if isinstance(value, dict) else None


def read_json_lines(
  path: Path, numbers: Sequence[str] = ()
) -> list[dict[str, Any]]:
  """Reads the rows of a JSON-lines file; [] without a file.

  Args:
    path: path of the file.
    numbers: keys of every row whose value is a number. Other rows, and damaged
      lines, are skipped and counted in a warning.
  """
  lines = path.read_bytes().splitlines() if path.exists() else []
  rows = []
  for line in lines:
    with contextlib.suppress(ValueError):
      row = json.loads(line)
      if isinstance(row, dict) and all(
        isinstance(row.get(key), int | float) for key in numbers
      ):
        rows.append(row)
  if len(rows) < len(lines):
    logging.warning(
      "Skipped %d damaged rows of %s.", len(lines) - len(rows), path
    )
  return rows


def next_write(path: Path) -> float:
  """Returns the `time.monotonic()` before which a log is not written again.

  A log in a store is written as a whole, so not with each row.
  """
  later = _LOG_SECONDS if isinstance(path, StorePath) else -math.inf
  return time.monotonic() + later


def write_json_lines(
  path: Path, rows: Sequence[dict[str, Any]], *, append: bool = False
) -> bool:
  """Writes or appends rows; logs a failure and returns False.

  Objects of a store are not appended to: `append` is for local files.
  """
  text = "".join(f"{json.dumps(row)}\n" for row in rows)
  try:
    if append:
      with path.open("a") as file:
        file.write(text)
    else:
      write_text(path, text)
  except OSError as error:
    logging.error(
      "Could not write %s: %s. The next write will include these rows.",
      path,
      error.strerror,
    )
    return False
  return True
