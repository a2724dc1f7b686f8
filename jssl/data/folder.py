"""A folder of PNG and JPEG files as a set of TFDS, without TensorFlow.

A tree has a folder for each class, or only images, and then the set is
unlabelled. Folders `train` and `test` or `val` at the top are the splits; with
`train` alone or none of them, a tenth of each class becomes `test`, chosen by a
hash of the file names. If all images are grayscale the set has one channel,
otherwise three. A damaged image is an error, or is left out if that is asked
for; the others stay in their splits. Files are kept as they are, or those that
are larger than asked for become the square that is trained on.
"""

import concurrent.futures
import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from jssl.data.array_record import square
from jssl.data.encode import Examples, jpeg, png

T = TypeVar("T")
Path = pathlib.Path
# The files of each class; an unlabelled set has the one class "".
Classes = dict[str, list[Path]]

_SUFFIXES = (".png", ".jpg", ".jpeg")
_GRAYSCALE_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "RGB", "RGBA", "CMYK", "YCbCr")
# Images in flight at once; a folder may hold more than the memory.
_CHUNK_SIZE = 256


def _raise(error: OSError) -> NoReturn:
  raise error


def _list_images(folder: Path) -> list[Path]:
  """Returns the PNG and JPEG files under a folder, sorted.

  Raises:
    OSError: a folder cannot be read; `Path.rglob` would pass it over.
  """
  return sorted(
    Path(parent, name)
    for parent, _, names in os.walk(folder, onerror=_raise)
    for name in names
    if name.lower().endswith(_SUFFIXES) and not name.startswith(".")
  )


def _list_classes(folder: Path) -> Classes:
  """Returns the images of each folder in a folder, or those in it.

  Raises:
    ValueError: there are no images, or some beside the folders, or only one
      folder, or an empty one.
  """
  children = [p for p in folder.iterdir() if not p.name.startswith(".")]
  folders = sorted(child for child in children if child.is_dir())
  loose = sorted(
    p for p in children if p.name.lower().endswith(_SUFFIXES) and p.is_file()
  )
  classes = {child.name: _list_images(child) for child in folders}
  if not loose and not any(classes.values()):
    raise ValueError(
      f"{folder} holds no image; expected files that end in "
      f"{', '.join(_SUFFIXES)}, in a folder for each class or in none"
    )
  if not folders:
    return {"": loose}
  if loose:
    raise ValueError(
      f"{folder} holds both folders and images ({loose[0].name}, ...); "
      "expected a folder for each class, or only images"
    )
  if empty := [name for name, paths in classes.items() if not paths]:
    raise ValueError(f"{folder} has classes without an image: {empty}")
  if len(classes) == 1:
    raise ValueError(
      f"{folder} has the one class {folders[0].name}; for an unlabelled set "
      f"use --source {folders[0]}"
    )
  return classes


def _hold_out(classes: Classes, root: Path) -> tuple[Classes, Classes]:
  """Splits each class into nine tenths and one, by a hash of the names."""

  def by_hash(path: Path) -> bytes:
    name = path.relative_to(root).as_posix()
    return hashlib.sha256(name.encode()).digest()

  train, test = {}, {}
  for name, paths in classes.items():
    shuffled = sorted(paths, key=by_hash)
    held_out = max(1, round(len(paths) / 10))
    test[name], train[name] = shuffled[:held_out], shuffled[held_out:]
  return train, test


def list_splits(source: Path) -> dict[str, Classes]:
  """Returns the images of each class of each split of a folder.

  Args:
    source: the folder; see the docstring of this module.

  Returns:
    At least `train` and `test`, with the same classes; `val` if there are
    folders for all three.

  Raises:
    ValueError: a folder is empty, a class has too few images to train,
      validate and test on, or a split has classes that `train` has not.
  """
  if not (source / "train").is_dir():
    splits = {"train": _list_classes(source)}
  else:
    names = [n for n in ("train", "val", "test") if (source / n).is_dir()]
    splits = {name: _list_classes(source / name) for name in names}
  classes = splits["train"]
  if "test" not in splits and "val" in splits:
    splits["test"] = splits.pop("val")
  needed = 2 if "test" in splits else 3
  for name, paths in classes.items():
    if len(paths) < needed:
      raise ValueError(
        f"{f'class {name}' if name else source} has {len(paths)} image(s) to "
        f"train on, {paths[0]}; expected at least {needed}, because some are "
        "held out to choose and to test by; add images or remove the class"
      )
  if "test" not in splits:
    splits["train"], splits["test"] = _hold_out(classes, source)
  for split, others in splits.items():
    if unknown := sorted(set(others) - set(classes)):
      raise ValueError(f"split {split} has classes not in train: {unknown}")
  return splits


class _DamagedFile(ValueError):
  pass


def _damaged(path: Path, error: Exception) -> _DamagedFile:
  return _DamagedFile(
    f"{path}: truncated or damaged image ({error}); repair or remove it, or "
    "leave out all that are damaged with --skip_damaged"
  )


def _unless_damaged(
  read: Callable[[Path], T], path: Path, *, skip: bool
) -> T | None:
  """Returns what is read from a file, or None if it is to be skipped."""
  try:
    return read(path)
  except _DamagedFile:
    if not skip:
      raise
    return None


def _read_header(path: Path) -> tuple[str, tuple[int, int]]:
  """Returns the pixel mode and the (width, height) of an image."""
  try:
    with Image.open(path) as image:
      mode, size = image.mode, image.size
  except PermissionError:
    raise
  except Exception as error:  # pillow has no one error for a damaged file.
    raise _damaged(path, error) from error
  if mode not in _GRAYSCALE_MODES + _COLOUR_MODES:
    raise ValueError(
      f"{path}: pixels of mode {mode}; expected 8 bits a channel: convert it"
    )
  return mode, size


def _encode(path: Path, *, mode: str, size_px: int | None = None) -> bytes:
  """Returns an image file as it is, or as PNG where the mode differs.

  Args:
    path: the file.
    mode: of the set's pixels.
    size_px: height and width of the square that a larger image becomes, in the
      format that it has.

  Raises:
    ValueError: it cannot be decoded to its end.
  """
  data = path.read_bytes()
  try:
    with Image.open(io.BytesIO(data)) as image:
      if size_px and min(image.size) > size_px:
        encode = jpeg if image.format == "JPEG" else png
        return encode(square(data, mode, size_px))
      image.load()
      if image.format in ("PNG", "JPEG") and image.mode == mode:
        return data
      return png(image.convert(mode))
  except Exception as error:
    raise _damaged(path, error) from error


class Folder(  # type: ignore[call-arg]
  tfds.core.GeneratorBasedBuilder, skip_registration=True
):
  """A folder of images as a set of TFDS."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(
    self,
    *,
    name: str,
    source: Path,
    skip_damaged: bool = False,
    stored_size_px: int | None = None,
    **kwargs: Any,
  ):
    self.name = name
    self._source = source
    self._size_px = stored_size_px
    self._skip_damaged = skip_damaged
    self._splits = list_splits(source)
    headers = {
      header
      for classes in self._splits.values()
      for paths in classes.values()
      for path in paths
      if (header := _unless_damaged(_read_header, path, skip=skip_damaged))
    }
    modes, sizes = ({h[0] for h in headers}, {h[1] for h in headers})
    grayscale = modes <= set(_GRAYSCALE_MODES)
    self._mode = "L" if grayscale else "RGB"
    alike = len(sizes) == 1 and stored_size_px is None
    width, height = sizes.pop() if alike else (None, None)
    self._image_shape = (height, width, 1 if grayscale else 3)
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    features: dict[str, Any] = {
      "image": tfds.features.Image(shape=self._image_shape)
    }
    if "" not in self._splits["train"]:
      names = sorted(self._splits["train"])
      features["label"] = tfds.features.ClassLabel(names=names)
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"Images of the folder {self._source.name}.",
      features=tfds.features.FeaturesDict(features),
      supervised_keys=("image", "label") if "label" in features else None,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Examples]:
    del dl_manager
    return {
      split: self._generate_examples(classes)
      for split, classes in self._splits.items()
    }

  def _generate_examples(self, classes: Classes) -> Examples:
    files = [(path, name) for name, paths in classes.items() for path in paths]
    encode = functools.partial(
      _unless_damaged,
      functools.partial(_encode, mode=self._mode, size_px=self._size_px),
      skip=self._skip_damaged,
    )
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(files), _CHUNK_SIZE):
        chunk = files[start : start + _CHUNK_SIZE]
        encoded = pool.map(encode, (path for path, _ in chunk))
        for (path, name), image in zip(chunk, encoded, strict=True):
          if image is None:
            logging.warning("left out, since it is damaged: %s", path)
            continue
          example = (
            {"image": image, "label": name} if name else {"image": image}
          )
          yield path.relative_to(self._source).as_posix(), example
