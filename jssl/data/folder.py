"""A folder of PNG and JPEG files as a TFDS data set, without TensorFlow.

The folder has a subfolder for each class, or only images for an unlabelled set.
Subfolders `train` and `test` or `val` at the top are splits. With `train` alone
or none of them, a tenth of each class becomes `test`, chosen by a hash of the
file names. The set has one channel if all images are grayscale, otherwise 3.
"""

import concurrent.futures
import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NoReturn

import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from jssl.data.array_record import square

Path = pathlib.Path
# Files of each class; an unlabelled set has one class, "".
Classes = dict[str, list[Path]]
Examples = Iterator[tuple[int | str, dict[str, Any]]]

_SUFFIXES = (".png", ".jpg", ".jpeg")
_GRAYSCALE_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "RGB", "RGBA", "CMYK", "YCbCr")
# Images in memory at once.
_CHUNK_SIZE = 256


def encode_image(image: Image.Image, file_format: str = "PNG") -> bytes:
  """Returns an image as a PNG or JPEG file."""
  file = io.BytesIO()
  # At 256 px, a synthetic photograph has 44 kB and 37 dB PSNR as a JPEG.
  image.save(file, file_format, quality=95)
  return file.getvalue()


def _raise(error: OSError) -> NoReturn:
  raise error


def _list_images(folder: Path) -> list[Path]:
  # `Path.rglob` would skip folders that cannot be read.
  return sorted(
    Path(parent, name)
    for parent, _, names in os.walk(folder, onerror=_raise)
    for name in names
    if name.lower().endswith(_SUFFIXES) and not name.startswith(".")
  )


def _list_classes(folder: Path) -> Classes:
  """Returns the images of each subfolder, or those directly in the folder."""
  children = [p for p in folder.iterdir() if not p.name.startswith(".")]
  folders = sorted(child for child in children if child.is_dir())
  loose = sorted(
    p for p in children if p.name.lower().endswith(_SUFFIXES) and p.is_file()
  )
  classes = {child.name: _list_images(child) for child in folders}
  if not loose and not any(classes.values()):
    raise ValueError(
      f"{folder} has no images; expected {', '.join(_SUFFIXES)} files, in a "
      "folder for each class or without folders"
    )
  if not folders:
    return {"": loose}
  if loose:
    raise ValueError(
      f"{folder} has both folders and images ({loose[0].name}, ...); "
      "expected a folder for each class, or only images"
    )
  if empty := [name for name, paths in classes.items() if not paths]:
    raise ValueError(f"{folder} has classes without images: {empty}")
  if len(classes) == 1:
    raise ValueError(
      f"{folder} has a single class, {folders[0].name}; for an unlabelled set "
      f"use --source {folders[0]}"
    )
  return classes


def _hold_out(classes: Classes, root: Path) -> tuple[Classes, Classes]:
  """Splits each class 9:1 by a hash of the file names."""

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

  The splits are `train` and `test`, and `val` if there are folders for all.

  Raises:
    ValueError: if a folder is empty, a class has too few images to train,
      validate and test on, or a split has a class that `train` does not have.
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
        "held out for validation and test; add images or remove the class"
      )
  if "test" not in splits:
    splits["train"], splits["test"] = _hold_out(classes, source)
  for split, others in splits.items():
    if unknown := sorted(set(others) - set(classes)):
      raise ValueError(f"split {split} has classes not in train: {unknown}")
  return splits


def _check_skipped(path: Path, error: Exception, skip: bool) -> None:
  """Raises ValueError about a damaged file unless `skip` is True."""
  if not skip:
    raise ValueError(
      f"{path}: truncated or damaged image ({error}); repair or remove it, or "
      "omit damaged images with --skip_damaged"
    ) from error


def _read_header(
  path: Path, *, skip: bool
) -> tuple[str, tuple[int, int]] | None:
  """Returns pixel mode and (width, height); None if damaged and `skip`."""
  try:
    with Image.open(path) as image:
      mode, size = image.mode, image.size
  except PermissionError:
    raise
  except Exception as error:  # pillow has no one exception for damaged files.
    _check_skipped(path, error, skip)
    return None
  if mode not in _GRAYSCALE_MODES + _COLOUR_MODES:
    raise ValueError(
      f"{path}: pixels of mode {mode}; expected 8 bits per channel; convert it"
    )
  return mode, size


def _encode(
  path: Path, *, mode: str, size_px: int | None = None, skip: bool = False
) -> bytes | None:
  """Returns the content of an image file, or as PNG if its mode differs.

  A larger image becomes a square of `size_px` in the same file format. Returns
  None for a damaged file if `skip`.
  """
  data = path.read_bytes()
  try:
    with Image.open(io.BytesIO(data)) as image:
      if size_px and min(image.size) > size_px:
        file_format = "JPEG" if image.format == "JPEG" else "PNG"
        return encode_image(square(data, mode, size_px), file_format)
      image.load()
      if image.format in ("PNG", "JPEG") and image.mode == mode:
        return data
      return encode_image(image.convert(mode))
  except Exception as error:
    _check_skipped(path, error, skip)
    return None


class Folder(  # type: ignore[call-arg]
  tfds.core.GeneratorBasedBuilder, skip_registration=True
):
  """TFDS builder of a folder of images."""

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
      if (header := _read_header(path, skip=skip_damaged))
    }
    modes, sizes = {mode for mode, _ in headers}, {size for _, size in headers}
    grayscale = modes <= set(_GRAYSCALE_MODES)
    self._mode = "L" if grayscale else "RGB"
    same_size = len(sizes) == 1 and stored_size_px is None
    width, height = sizes.pop() if same_size else (None, None)
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
      _encode, mode=self._mode, size_px=self._size_px, skip=self._skip_damaged
    )
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(files), _CHUNK_SIZE):
        chunk = files[start : start + _CHUNK_SIZE]
        encoded = pool.map(encode, (path for path, _ in chunk))
        for (path, name), image in zip(chunk, encoded, strict=True):
          if image is None:
            logging.warning("Omitted damaged image %s.", path)
            continue
          example = {"image": image, **({"label": name} if name else {})}
          yield path.relative_to(self._source).as_posix(), example
