"""Lists the images of a folder by split and class.

The folder has a subfolder for each class, or only images for an unlabelled set.
Labels may also come from elsewhere; then folders are no classes.

Subfolders `train` and `test`, `val`, `valid` or `validation` at the top are
splits. Without `test`, `val` becomes `test`. With `train` alone or none of
them, a tenth of each class does, chosen by a hash of the file names.

Links are followed, also out of the folder, but no folder may be in two classes.
Hidden files and folders and files with other suffixes are passed over.
"""

import collections
import os
import pathlib
import re
import unicodedata
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from absl import logging
from PIL import Image

from jssl.data.image import FORMATS

Path = pathlib.Path
# Files of each class; an unlabelled set has one class, "".
Classes = dict[str, list[Path]]

# Multi-picture files of cameras are JPEG files.
SUFFIXES = (
  ".npy",
  *sorted(
    suffix
    for suffix, name in Image.registered_extensions().items()
    if name in (*FORMATS, "MPO")
  ),
)
_SPLITS = {
  "train": "train",
  **dict.fromkeys(("val", "valid", "validation"), "val"),
  "test": "test",
}
# Names or lines of a message.
MOST_LISTED = 20
_NOT_IN_A_LINE = re.compile("[\\r\\n\\ud800-\\udfff]")


class File(NamedTuple):
  """A file of a folder.

  Attributes:
    path: path of the file.
    reason: why the file is passed over; "" for an image of the set.
    split: name of the split.
    label: name of the class; "" in an unlabelled set.
    size: bytes of the file.
    mtime_ns: time of its last change.
  """

  path: str
  reason: str = ""
  split: str = ""
  label: str = ""
  size: int = 0
  mtime_ns: int = 0


class Group(NamedTuple):
  """Images of a class in a split: their number, and the path of one of them."""

  number: int
  path: str


def file_name(path: pathlib.PurePath | str) -> str:
  """Returns the name of a file in UTF-8; other bytes become escapes."""
  return os.fsencode(path).decode("utf-8", "backslashreplace")


def printable(path: pathlib.PurePath | str) -> str:
  """Returns `file_name` on one line; line breaks become escapes."""
  return "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode()
    for c in file_name(path)
  )


def _join(names: Sequence[str]) -> str:
  """Returns the first names in one line, and the number of others."""
  more = len(names) - MOST_LISTED
  rest = f" and {more:,} more" if more > 0 else ""
  return ", ".join(names[:MOST_LISTED]) + rest


def _reason(name: str, *, hidden: bool) -> str:
  """Returns why a file is no image of the set; "" if it may be one."""
  suffix = os.path.splitext(name)[1].lower()
  if suffix not in SUFFIXES:
    return f"with the suffix {suffix}" if suffix else "without a suffix"
  if hidden or name.startswith("."):
    return "hidden, or in hidden folders"
  return ""


class _Walk:
  """Lists each folder of a tree once.

  Attributes:
    links_out: number of links out of the tree, as far as it is listed.
    first_link_out: path of the first of them; "" without one.
  """

  def __init__(self, source: str, *, by_folder: bool):
    self.links_out = 0
    self.first_link_out = ""
    self._source = source
    self._by_folder = by_folder
    self._real_source = os.path.realpath(source)
    # Path, split and class of each folder, by device and inode.
    self._listed: dict[tuple[int, int], tuple[str, str, str]] = {}

  def _follow(self, entry: os.DirEntry) -> str:
    """Returns the target of a link, which counts if it is out of the tree."""
    target = os.path.realpath(entry.path)
    if not Path(target).is_relative_to(self._real_source):
      self.links_out += 1
      self.first_link_out = self.first_link_out or entry.path
    return target

  def files(
    self, root: str, split: str = "", *, omit: Container[str] = ()
  ) -> Iterator[File]:
    """Yields the files of a folder; subfolders in the order of their names.

    Args:
      root: the folder, whose subfolders are classes if folders are.
      split: name of its split; "" outside of the splits.
      omit: real paths of folders that are not listed.

    Raises:
      ValueError: if a link puts a folder in two classes or splits.
    """
    folders = [root]
    while folders:
      folder = folders.pop()
      parts = Path(folder).relative_to(root).parts
      label = parts[0] if parts and self._by_folder else ""
      hidden = any(
        part.startswith(".")
        for part in Path(folder).relative_to(self._source).parts
      )
      info = os.stat(folder)
      first, *owner = self._listed.setdefault(
        (info.st_dev, info.st_ino), (folder, split, label)
      )
      if first != folder:
        if owner != [split, label] and split and not hidden:
          raise ValueError(
            f"{first} and {folder} are the same folder; expected each image in "
            "one class of one split; remove the link"
          )
        yield File(folder, "that are folders listed before")
        continue
      subfolders = []
      with os.scandir(folder) as entries:
        for entry in entries:
          target = self._follow(entry) if entry.is_symlink() else ""
          # Without an error for a link to itself.
          if os.path.isdir(entry.path) if target else entry.is_dir():
            if target and Path(os.path.realpath(folder)).is_relative_to(target):
              yield File(entry.path, "that are links to a folder around them")
            elif os.path.realpath(entry.path) not in omit:
              subfolders.append(entry.path)
          elif reason := _reason(entry.name, hidden=hidden):
            yield File(entry.path, reason)
          elif target and not os.path.exists(target):
            yield File(entry.path, "that are broken links")
          elif not entry.is_file():
            yield File(entry.path, "that are no regular files")
          else:
            try:
              info = entry.stat()
            except FileNotFoundError:
              yield File(entry.path, "that have vanished")
              continue
            about = split, label, info.st_size, info.st_mtime_ns
            yield File(entry.path, "", *about)
      folders += sorted(subfolders, reverse=True)


def _split_folders(source: Path, *, by_folder: bool) -> dict[str, str]:
  """Returns the folder of each split; {} if there are none."""
  children = [c for c in sorted(source.iterdir()) if c.is_dir()]
  names = {c: _SPLITS.get(c.name.lower()) for c in children}
  folders = {split: folder for folder, split in names.items() if split}
  if "train" not in folders:
    return {}
  walk = _Walk(os.fspath(source), by_folder=False)
  others = [
    folder.name
    for folder, split in names.items()
    if not split and any(not f.reason for f in walk.files(os.fspath(folder)))
  ]
  has_classes = by_folder and any(
    c.is_dir() for c in folders["train"].iterdir()
  )
  if others and not has_classes:
    return {}  # A class, or any other folder, that is called train.
  if others or len(folders) < len([s for s in names.values() if s]):
    raise ValueError(
      f"{source} has folders of splits ({', '.join(_SPLITS)}) twice or beside "
      f"folders of classes: {_join([repr(c.name) for c in children])}; "
      "expected only one of them; move or rename the others"
    )
  if "test" not in folders and "val" in folders:
    folders["test"] = folders.pop("val")
  order = [split for split in ("train", "val", "test") if split in folders]
  return {split: os.fspath(folders[split]) for split in order}


class Layout:
  """The splits and classes of a folder.

  Attributes:
    source: the folder.
    splits: folder of each split, in the order train, val, test.

  Raises:
    ValueError: if there are folders of splits twice or beside others.
  """

  def __init__(self, source: Path, *, by_folder: bool = True):
    self.source = os.fspath(source)
    self.splits = _split_folders(source, by_folder=by_folder) or {
      "train": self.source
    }
    self._by_folder = by_folder
    self._walk = _Walk(self.source, by_folder=by_folder)

  def describe_links(self) -> str:
    """Returns a line about links out of the folder; "" without any."""
    walk = self._walk
    if not walk.links_out:
      return ""
    first = printable(os.path.relpath(walk.first_link_out, self.source))
    rest = ", ..." if walk.links_out > 1 else ""
    return (
      f"Followed links out of the source, {walk.links_out:,}: {first}{rest}"
    )

  def files(self, *, omit: Path) -> Iterator[File]:
    """Yields all files, those of the set and those that are passed over.

    Args:
      omit: a folder whose files are neither.

    Raises:
      ValueError: if a link puts a folder in two classes or splits.
    """
    others = [os.path.realpath(folder) for folder in self.splits.values()]
    omitted = [os.path.realpath(omit)]
    for split, folder in self.splits.items():
      yield from self._walk.files(folder, split, omit=omitted)
    if self.source not in self.splits.values():
      for file in self._walk.files(self.source, omit=[*omitted, *others]):
        reason = file.reason or "beside the folders of splits"
        yield file._replace(reason=reason)

  def check(self, groups: Mapping[str, Mapping[str, Group]]) -> None:
    """Checks the images of each class of each split.

    Raises:
      ValueError: if a folder is empty, folders are neither classes nor splits,
        a class has a name that TFDS does not keep or too few images to train,
        validate and test on, or a split has a class that `train` does not have.
    """
    for split, folder in self.splits.items():
      own = groups.get(split, {})
      if not own:
        raise ValueError(
          f"{folder} has no images; expected files that end in "
          f"{', '.join(SUFFIXES)}, in a folder for each class or without "
          "folders"
        )
      if self._by_folder:
        self._check_folders(Path(folder), own)
      check_class_names(folder, own)
    classes = groups["train"]
    needed = 2 if "test" in self.splits else 3
    for name, (number, path) in classes.items():
      if number < needed:
        raise ValueError(
          f"{f'class {name}' if name else self.source} has {number} image(s) "
          f"to train on, {printable(path)}; expected at least {needed}, "
          "because some are held out for validation and test; add images or "
          "remove the class"
        )
    for split, own in groups.items():
      if unknown := list(map(repr, sorted(set(own) - set(classes)))):
        raise ValueError(
          f"split {split} has classes not in train: {_join(unknown)}"
        )

  def _check_folders(self, folder: Path, own: Mapping[str, Group]) -> None:
    children = [c for c in folder.iterdir() if c.is_dir()]
    names = sorted(c.name for c in children if not c.name.startswith("."))
    if not names:
      return
    unlabelled = "for an unlabelled set, with any folders, use --unlabelled"
    if "" in own:
      raise ValueError(
        f"{folder} has both folders and images ({printable(own[''].path)}, "
        f"...); expected a folder for each class, or only images; {unlabelled}"
      )
    if empty := [repr(name) for name in names if name not in own]:
      raise ValueError(f"{folder} has classes without images: {_join(empty)}")
    if len(own) == 1:
      raise ValueError(
        f"{folder} has a single class, {names[0]}; expected two or more; "
        f"{unlabelled}"
      )


def check_class_names(source: Path | str, names: Iterable[str]) -> None:
  """Raises ValueError for names that TFDS would change, or that look alike."""
  # TFDS writes a name per line, as UTF-8, and strips it.
  if odd := [
    repr(n) for n in names if n != n.strip() or _NOT_IN_A_LINE.search(n)
  ]:
    raise ValueError(
      f"{source} has classes whose names begin or end with a space, contain a "
      f"line break or are not UTF-8: {_join(odd)}; rename these classes"
    )
  alike = collections.defaultdict(list)
  for name in names:
    alike[unicodedata.normalize("NFC", name)].append(name)
  if same := [ascii(own) for own in alike.values() if len(own) > 1]:
    raise ValueError(
      f"{source} has classes that have the same name in another form of "
      f"Unicode: {_join(same)}; rename or join them"
    )


def list_files(folder: Path) -> Classes:
  """Returns the images of a folder, for reading them where they are.

  Folders directly in it are classes. The set is unlabelled, one class "", if
  there are images beside them or fewer than two classes with images.

  Raises:
    FileNotFoundError: if there is no such folder.
    ValueError: if it has no images, or folders of splits.
  """
  if not folder.is_dir():
    raise FileNotFoundError(f"--source={folder} is not a folder")
  walk = _Walk(os.fspath(folder), by_folder=True)
  found = list(walk.files(os.fspath(folder)))
  others = collections.Counter(file.reason for file in found if file.reason)
  counts = _join([f"{n} {reason}" for reason, n in sorted(others.items())])
  counts = f"; passed over: {counts}" if counts else ""
  images = sorted(Path(file.path) for file in found if not file.reason)
  if not images:
    raise ValueError(
      f"--source={folder} has no images; expected files that end in "
      f"{', '.join(SUFFIXES)}{counts}"
    )
  if counts:
    logging.warning("%s%s.", folder, counts)
  classes: Classes = {}
  for path in images:
    first, *rest = path.relative_to(folder).parts
    classes.setdefault(first if rest else "", []).append(path)
  if "" in classes or len(classes) < 2:
    return {"": images}
  if splits := [name for name in classes if name.lower() in _SPLITS]:
    raise ValueError(
      f"--source={folder} has folders of splits: {', '.join(splits)}; expected "
      f"one split, such as --source={folder / splits[0]}"
    )
  return classes
