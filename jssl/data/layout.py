"""Lists the images of a folder by split and class.

The folder has a subfolder for each class, or only images for an unlabelled set.
Subfolders `train` and `test`, `val`, `valid` or `validation` at the top are
splits. With `train` alone or none of them, a tenth of each class becomes
`test`, chosen by a hash of the file names.

Linked folders are followed, but no folder may be in two classes. Hidden files
and folders and files with other suffixes are not taken; a warning has their
number.
"""

import collections
import hashlib
import os
import pathlib
import re
from typing import NoReturn

from absl import logging

Path = pathlib.Path
# Files of each class; an unlabelled set has one class, "".
Classes = dict[str, list[Path]]
# Number of files that were not taken, by the reason.
Others = collections.Counter[str]

_SUFFIXES = (
  *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif"),
  *(".tif", ".tiff", ".pgm", ".ppm", ".npy"),
)
_SPLITS = {
  "train": "train",
  **dict.fromkeys(("val", "valid", "validation"), "val"),
  "test": "test",
}
_NOT_IN_A_LINE = re.compile("[\\r\\n\\ud800-\\udfff]")


def _raise(error: OSError) -> NoReturn:
  raise error


def _is_taken(path: Path, others: Others, *, hidden: bool = False) -> bool:
  """True if a file is an image of the set; otherwise counts it by reason."""
  suffix = path.suffix.lower()
  if suffix not in _SUFFIXES:
    reason = f"with the suffix {suffix}" if suffix else "without a suffix"
  elif hidden or path.name.startswith("."):
    reason = "hidden, or in hidden folders"
  elif not path.is_file():
    reason = "that are broken links"
  else:
    return True
  others[reason] += 1
  return False


def _list_images(folder: Path, others: Others) -> list[Path]:
  images, visited = [], set()
  # `Path.rglob` would skip folders that cannot be read.
  for parent, folders, names in os.walk(
    folder, onerror=_raise, followlinks=True
  ):
    path = Path(parent)
    real = path.resolve()
    if real in visited:  # Links between folders can form a loop.
      folders.clear()
      others["that are folders listed before"] += 1
      continue
    visited.add(real)
    for link in [n for n in folders if (path / n).is_symlink()]:
      if real.is_relative_to((path / link).resolve()):
        folders.remove(link)
        others["that are links to a folder around them"] += 1
    parts = path.relative_to(folder.parent).parts
    hidden = any(part.startswith(".") for part in parts)
    images += [
      path / n for n in names if _is_taken(path / n, others, hidden=hidden)
    ]
  return sorted(images)


def _list_classes(folder: Path, others: Others) -> Classes:
  """Returns the images of each subfolder, or those directly in the folder."""
  children = sorted(folder.iterdir())
  classes = {c.name: _list_images(c, others) for c in children if c.is_dir()}
  classes = {n: own for n, own in classes.items() if not n.startswith(".")}
  loose = [c for c in children if not c.is_dir() and _is_taken(c, others)]
  if not loose and not any(classes.values()):
    raise ValueError(
      f"{folder} has no images; expected files that end in "
      f"{', '.join(_SUFFIXES)}, in a folder for each class or without folders"
      f"{_count(others)}"
    )
  if not classes:
    return {"": loose}
  if loose:
    raise ValueError(
      f"{folder} has both folders and images ({loose[0].name}, ...); "
      "expected a folder for each class, or only images"
    )
  if empty := [name for name, paths in classes.items() if not paths]:
    counts = _count(others)
    raise ValueError(f"{folder} has classes without images: {empty}{counts}")
  if len(classes) == 1:
    (name,) = classes
    raise ValueError(
      f"{folder} has a single class, {name}; for an unlabelled set use "
      f"--source {folder / name}"
    )
  # TFDS writes a name per line, as UTF-8, and strips it.
  if odd := [n for n in classes if n != n.strip() or _NOT_IN_A_LINE.search(n)]:
    raise ValueError(
      f"{folder} has classes whose names begin or end with a space, contain a "
      f"line break or are not UTF-8: {odd}; rename these folders"
    )
  return classes


def _count(others: Others) -> str:
  """Returns the counts for the end of a message; "" without any."""
  counts = ", ".join(f"{n} {why}" for why, n in sorted(others.items()) if n)
  return f"; files that were not taken: {counts}" if counts else ""


def _list_split_folders(source: Path, others: Others) -> dict[str, Classes]:
  """Returns the classes of each folder of a split; {} if there are none."""
  children = sorted(source.iterdir())
  names = {c: _SPLITS.get(c.name.lower()) for c in children if c.is_dir()}
  splits = {split: folder for folder, split in names.items() if split}
  if "train" not in splits:
    return {}
  unused: Others = collections.Counter()
  classes = [
    folder.name
    for folder, split in names.items()
    if not split and _list_images(folder, unused)
  ]
  if classes and not any(c.is_dir() for c in splits["train"].iterdir()):
    return {}  # A class that is called train.
  if classes or len(splits) < len([s for s in names.values() if s]):
    raise ValueError(
      f"{source} has folders of splits ({', '.join(_SPLITS)}) twice or beside "
      f"folders of classes: {[folder.name for folder in names]}; expected only "
      "one of them; move or rename the others"
    )
  others.update(unused)
  loose = [c for c in children if not c.is_dir() and _is_taken(c, others)]
  others["beside the folders of splits"] += len(loose)
  return {
    split: _list_classes(splits[split], others)
    for split in ("train", "val", "test")
    if split in splits
  }


def file_name(path: pathlib.PurePath | str) -> str:
  """Returns the name of a file in UTF-8; other bytes become escapes."""
  return os.fsencode(path).decode("utf-8", "backslashreplace")


def key(path: Path, root: Path) -> bytes:
  """Returns the key of an image; a file name may be of any encoding."""
  return os.fsencode(path.relative_to(root).as_posix())


def _check_folders_once(splits: dict[str, Classes]) -> None:
  """Raises ValueError if a link puts a folder in two classes or splits."""
  listed: dict[Path, Path] = {}
  for classes in splits.values():
    for paths in classes.values():
      for folder in sorted({path.parent for path in paths}):
        first = listed.setdefault(folder.resolve(), folder)
        if first != folder:
          raise ValueError(
            f"{first} and {folder} are the same folder; expected each image in "
            "one class of one split; remove the link"
          )


def _hold_out(classes: Classes, root: Path) -> tuple[Classes, Classes]:
  """Splits each class 9:1 by a hash of the file names."""

  def by_hash(path: Path) -> bytes:
    return hashlib.sha256(key(path, root)).digest()

  train, test = {}, {}
  for name, paths in classes.items():
    shuffled = sorted(paths, key=by_hash)
    held_out = max(1, round(len(paths) / 10))
    test[name], train[name] = shuffled[:held_out], shuffled[held_out:]
  return train, test


def list_splits(source: Path) -> dict[str, Classes]:
  """Returns the images of each class of each split of a folder.

  The splits are `train` and `test`, and `val` if there are folders for all.

  Raises:
    ValueError: if a folder is empty, folders are neither classes nor splits, a
      class has a name that TFDS does not keep or too few images to train,
      validate and test on, a split has a class that `train` does not have, or a
      link puts a folder in two classes.
  """
  others: Others = collections.Counter()
  splits = _list_split_folders(source, others) or {
    "train": _list_classes(source, others)
  }
  if counts := _count(others):
    logging.warning("%s%s.", source, counts)
  _check_folders_once(splits)
  classes = splits["train"]
  if "test" not in splits and "val" in splits:
    splits["test"] = splits.pop("val")
  needed = 2 if "test" in splits else 3
  for name, paths in classes.items():
    if len(paths) < needed:
      raise ValueError(
        f"{f'class {name}' if name else source} has {len(paths)} image(s) to "
        f"train on, {paths[0]}; expected at least {needed}, because some are "
        "held out for validation and test; add images or remove the class"
      )
  if "test" not in splits:
    splits["train"], splits["test"] = _hold_out(classes, source)
  for split, own in splits.items():
    if unknown := sorted(set(own) - set(classes)):
      raise ValueError(f"split {split} has classes not in train: {unknown}")
  return splits


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
  others: Others = collections.Counter()
  images = _list_images(folder, others)
  if not images:
    raise ValueError(
      f"--source={folder} has no images; expected files that end in "
      f"{', '.join(_SUFFIXES)}{_count(others)}"
    )
  if counts := _count(others):
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
