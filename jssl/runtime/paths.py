"""Paths of users: files on disk, and objects in stores such as gs://bucket/x.

`as_path` makes either. In a store

- every folder exists;
- a write replaces one object as a whole or fails, so it needs no second name;
- there are no locks, nothing can be appended, and a rename copies.
"""

import contextlib
import errno
import glob
import io
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from etils import epath

# fsspec would list a folder once and never see what another process writes.
_LISTED_ONCE = ("gs", "s3", "az", "abfs", "hf")
# Of errors that recur. Others may be those of a network.
_DENIED = re.compile("forbidden|unauthorized|denied|credentials", re.IGNORECASE)


@contextlib.contextmanager
def _os_errors(path: str) -> Iterator[None]:
  """Makes OSErrors of all errors of a store."""
  try:
    yield
  except (FileNotFoundError, FileExistsError, IsADirectoryError) as error:
    text = error.strerror or str(error)
    raise type(error)(error.errno, text, path) from error
  except Exception as error:  # Of any package that fsspec uses.
    code = errno.EACCES if _DENIED.search(repr(error)) else errno.EIO
    text = f"{type(error).__name__}: {error}".strip()
    raise OSError(code, text, path) from error


class _Reader(io.RawIOBase):
  """Reads an open object; errors of the store are OSErrors."""

  def __init__(self, file: Any, path: str) -> None:
    self._file, self._path = file, path

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    return self._file.seek(offset, whence)

  def tell(self) -> int:
    return self._file.tell()

  def readinto(self, buffer: Any) -> int:
    with _os_errors(self._path):
      data = self._file.read(len(buffer))
    buffer[: len(data)] = data
    return len(data)

  def close(self) -> None:
    self._file.close()
    super().close()


class StorePath(epath.Path):
  """A path in an object store, by the file system of fsspec for its scheme.

  Errors of a store are OSErrors, as those of files.
  """

  def __str__(self) -> str:
    """Returns the URL."""
    # A path has single slashes.
    return super().__str__().replace(":/", "://", 1)

  @property
  def scheme(self) -> str:
    """Scheme of the URL, such as "gs"."""
    return self.parts[0].removesuffix(":")

  def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
    """Calls a method of the file system."""
    import fsspec

    try:
      system, _ = fsspec.url_to_fs(str(self))
    except (ImportError, ValueError) as error:
      raise ValueError(
        f"{self}: {error}; `pip install 'jssl[gcs]'` is for gs://, "
        "`pip install 'jssl[s3]'` for s3://"
      ) from error
    with _os_errors(str(self)):
      return getattr(system, method)(*args, **kwargs)

  def info(self) -> dict[str, Any] | None:
    """Returns the metadata of an object or folder; None if there is none."""
    try:
      return self.call("info", str(self))
    except FileNotFoundError:
      return None

  def exists(self) -> bool:
    """True for an object, or a folder with objects."""
    return self.info() is not None

  def is_dir(self) -> bool:
    """True for a folder with objects."""
    return (self.info() or {}).get("type") == "directory"

  def is_file(self) -> bool:
    """True for an object."""
    return (self.info() or {}).get("type") == "file"

  def _with_scheme(self, names: list[str]) -> Iterator["StorePath"]:
    for name in sorted(names):
      yield StorePath(f"{self.scheme}://{name.lstrip('/')}")

  def iterdir(self) -> Iterator["StorePath"]:
    """Yields the entries of a folder; none if it has no objects."""
    try:
      names = self.call("ls", str(self), detail=False)
    except FileNotFoundError:
      return
    yield from (path for path in self._with_scheme(names) if path != self)

  def glob(self, pattern: str) -> Iterator["StorePath"]:
    """Yields the paths below this one that match."""
    escaped = f"{glob.escape(str(self))}/{pattern}"
    yield from self._with_scheme(self.call("glob", escaped))

  def objects(self) -> dict[str, dict[str, Any]]:
    """Returns the metadata of all objects below a folder, by relative path."""
    found = self.call("find", str(self), detail=True)
    paths = self._with_scheme([*found])
    metadata = (found[name] for name in sorted(found))
    return {
      path.relative_to(self).as_posix(): values
      for path, values in zip(paths, metadata, strict=True)
    }

  def open(self, mode: str = "r", **kwargs: Any) -> Any:
    """Opens an object to read its bytes, or text as in `io.TextIOWrapper`."""
    if mode not in ("r", "rb"):
      raise ValueError(f"{self}: expected mode 'r' or 'rb', not {mode!r}")
    file = _Reader(self.call("open", str(self), "rb"), str(self))
    buffered = io.BufferedReader(file)
    return buffered if mode == "rb" else io.TextIOWrapper(buffered, **kwargs)

  def read_bytes(self) -> bytes:
    """Reads an object."""
    return self.call("cat_file", str(self))

  def read_text(
    self, encoding: str | None = None, errors: str | None = None
  ) -> str:
    """Reads an object as text."""
    return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

  def write_bytes(self, data: bytes) -> int:
    """Writes or replaces an object."""
    self.call("pipe_file", str(self), data)
    return len(data)

  def write_text(
    self, data: str, encoding: str | None = None, errors: str | None = None
  ) -> int:
    """Writes or replaces an object."""
    return self.write_bytes(
      data.encode(encoding or "utf-8", errors or "strict")
    )

  def create(self, text: str) -> None:
    """Writes a new object; raises FileExistsError if there is one.

    A store that has no such condition replaces it.
    """
    self.call("pipe_file", str(self), text.encode(), mode="create")

  def upload(self, source: pathlib.Path) -> None:
    """Copies a local file here, or the files of a folder, one after another."""
    if source.is_dir():
      for path in sorted(source.iterdir()):
        (self / path.name).upload(path)
    else:
      self.call("put_file", os.fspath(source), str(self))

  def download(self, target: pathlib.Path) -> None:
    """Copies an object to a local file."""
    self.call("get_file", str(self), os.fspath(target))

  def mkdir(
    self, mode: int | None = None, parents: bool = False, exist_ok: bool = False
  ) -> None:
    """Does nothing: a folder exists without objects."""

  def unlink(self, missing_ok: bool = False) -> None:
    """Removes an object."""
    self._remove(missing_ok=missing_ok, recursive=False)

  def rmtree(self, missing_ok: bool = False) -> None:
    """Removes all objects of a folder."""
    self._remove(missing_ok=missing_ok, recursive=True)

  def _remove(self, *, missing_ok: bool, recursive: bool) -> None:
    try:
      # It removes what matches a pattern.
      self.call("rm", glob.escape(str(self)), recursive=recursive)
    except FileNotFoundError:
      if not missing_ok:
        raise

  def rename(self, target: str | os.PathLike) -> "StorePath":
    """Copies an object, or the objects of a folder, and removes the first."""
    renamed, is_folder = StorePath(target), self.is_dir()
    for name in self.objects() if is_folder else [""]:
      self.call("cp_file", str(self / name), str(renamed / name))
    self._remove(missing_ok=True, recursive=is_folder)
    return renamed

  replace = rename

  def resolve(self, strict: bool = False) -> "StorePath":
    """Returns the path itself."""
    return self


Path: TypeAlias = pathlib.Path | StorePath


def modified(path: Path) -> Any:
  """Returns the time of the last change, to compare with that of others."""
  if isinstance(path, StorePath):
    return path.call("modified", str(path))
  return path.stat().st_mtime


def is_url(path: str | os.PathLike) -> bool:
  """True for a URL such as gs://bucket/run."""
  # `pathlib` removes one of the two slashes.
  text = os.fspath(path)
  return re.match(r"[a-z][a-z0-9+.-]+:/", text, re.IGNORECASE) is not None


def as_path(path: str | os.PathLike) -> Path:
  """Returns the path of a local file or folder, or of a URL.

  Also makes fsspec list folders anew each time, for Orbax and TFDS too.
  """
  if not is_url(path):
    return pathlib.Path(path)
  import fsspec

  store = StorePath(path)
  if store.scheme in _LISTED_ONCE:
    defaults = fsspec.config.conf.setdefault(store.scheme, {})
    defaults.setdefault("use_listings_cache", False)
  return store
