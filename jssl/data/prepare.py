"""Writes a set to disk as TFDS does, in ArrayRecord, readable by row.

    python -m jssl.data.prepare fashion_mnist [--source DIR]
    python -m jssl.data.prepare folder --source DIR [--name NAME]
    python -m jssl.data.prepare NAME        # any other set of TFDS

What is written opens with plain `tfds.data_source(NAME, data_dir=...)`, and is
there whole or not at all. Only the other sets of TFDS need TensorFlow.

`fashion_mnist` takes the four IDX files, plain or .gz, from --source; else
from Debian's package dataset-fashion-mnist if that is installed; else TFDS
downloads them. All give the same records in the same order.

`folder` takes a tree of PNG and JPEG files: a folder for each class, or only
images, and then the set is unlabelled. Folders `train` and `test` or `val` at
the top are the splits; with `train` alone or none of them, a tenth of each
class becomes `test`, chosen by a hash of the file names. If all images are
grayscale the set has one channel, otherwise three.
"""

import concurrent.futures
import difflib
import functools
import gzip
import hashlib
import importlib.util
import io
import math
import os
import pathlib
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags
from jaxtyping import UInt8
from PIL import Image

_SOURCE = flags.DEFINE_string(
  "source", None, "Folder of the images, or of the IDX files."
)
_NAME = flags.DEFINE_string(
  "name", None, "What the set of a folder is called; default: as the folder."
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Where sets are written; default: where TFDS looks."
)

Path = pathlib.Path
Examples = Iterator[tuple[int | str, dict[str, Any]]]
# The files of each class; an unlabelled set has the one class "".
Classes = dict[str, list[Path]]

_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_IDX_FILES = {
  "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
  "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_SUFFIXES = (".png", ".jpg", ".jpeg")
_GRAYSCALE_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "RGB", "RGBA", "CMYK", "YCbCr")
# Images in flight at once; a folder may hold more than the memory.
_CHUNK_SIZE = 256


def read_idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
  """Reads an IDX file of bytes, plain or compressed with gzip.

  Args:
    path: the file.
    dimensions: how many the array must have.

  Returns:
    The array, of the shape that the file states.

  Raises:
    ValueError: the file is not IDX, not of bytes, or not as long as it states.

  Reference: "The IDX file format" of the MNIST database: two zero bytes, 8 for
    unsigned bytes, the number of dimensions, each of them as a big-endian
    uint32, then the data in C order.
  """
  data = path.read_bytes()
  if data[:2] == b"\x1f\x8b":
    try:
      data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      raise ValueError(
        f"{path}: truncated or damaged after {len(data)} bytes ({error}); get "
        "the file again"
      ) from error
  magic = bytes([0, 0, 8, dimensions])
  start = 4 + 4 * dimensions
  if data[:4] != magic or len(data) < start:
    raise ValueError(
      f"{path}: expected an IDX file of bytes, of {dimensions} dimensions: "
      f"{magic.hex()} and at least {start} bytes; got {data[:4].hex()} and "
      f"{len(data)} bytes"
    )
  shape = np.frombuffer(data[4:start], ">u4").tolist()
  expected = start + math.prod(shape)
  if len(data) != expected:
    raise ValueError(
      f"{path}: expected {expected} bytes for shape {shape}, got {len(data)}; "
      "get the file again"
    )
  return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _png(image: Image.Image) -> bytes:
  """Encodes without TensorFlow, which is what TFDS would do it with."""
  file = io.BytesIO()
  image.save(file, "PNG")
  return file.getvalue()


class FashionMnist(  # type: ignore[call-arg]
  tfds.image_classification.FashionMNIST, skip_registration=True
):
  """The set of TFDS, written without TensorFlow."""

  name = "fashion_mnist"
  # TFDS looks for the checksums of downloads beside the code of the class.
  url_infos = tfds.image_classification.FashionMNIST.url_infos

  def __init__(self, *, source: Path | None, **kwargs: Any):
    self._source = source
    super().__init__(**kwargs)

  def _idx_file(
    self, downloads: tfds.download.DownloadManager, name: str
  ) -> Path:
    if self._source is None:
      return Path(downloads.download(f"{self.URL}{name}.gz"))
    for path in (self._source / name, self._source / f"{name}.gz"):
      if path.is_file():
        return path
    raise FileNotFoundError(
      f"{self._source} has neither {name} nor {name}.gz; --source must be a "
      "folder with the four IDX files of Fashion-MNIST"
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Examples]:
    return {
      split: self._generate_examples(
        *(self._idx_file(dl_manager, name) for name in names)
      )
      for split, names in _IDX_FILES.items()
    }

  def _generate_examples(self, image_file: Path, label_file: Path) -> Examples:
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    features = self.info.features
    shape = (len(labels), *features["image"].shape[:2])
    classes = features["label"].num_classes
    if images.shape != shape or labels.max() >= classes:
      raise ValueError(
        f"{image_file} has shape {images.shape}, {label_file} {labels.shape} "
        f"with labels up to {labels.max()}; expected {shape} and labels below "
        f"{classes}: these are not the files of one split of Fashion-MNIST"
      )
    # The keys are those of TFDS, so that its shuffle gives the same order.
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
      encoded = _png(Image.fromarray(image))
      yield row, {"image": encoded, "label": int(label)}


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


def _damaged(path: Path, error: Exception) -> ValueError:
  return ValueError(
    f"{path}: truncated or damaged image ({error}); repair or remove it"
  )


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


def _encode(path: Path, *, mode: str) -> bytes:
  """Returns an image file as it is, or as PNG where the mode differs.

  Raises:
    ValueError: it cannot be decoded to its end.
  """
  data = path.read_bytes()
  try:
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      if image.format in ("PNG", "JPEG") and image.mode == mode:
        return data
      return _png(image.convert(mode))
  except Exception as error:
    raise _damaged(path, error) from error


class Folder(  # type: ignore[call-arg]
  tfds.core.GeneratorBasedBuilder, skip_registration=True
):
  """A folder of images as a set of TFDS."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, *, name: str, source: Path, **kwargs: Any):
    self.name = name
    self._source = source
    self._splits = list_splits(source)
    headers = {
      _read_header(path)
      for classes in self._splits.values()
      for paths in classes.values()
      for path in paths
    }
    modes, sizes = ({h[0] for h in headers}, {h[1] for h in headers})
    grayscale = modes <= set(_GRAYSCALE_MODES)
    self._mode = "L" if grayscale else "RGB"
    width, height = sizes.pop() if len(sizes) == 1 else (None, None)
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
    encode = functools.partial(_encode, mode=self._mode)
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(files), _CHUNK_SIZE):
        chunk = files[start : start + _CHUNK_SIZE]
        encoded = pool.map(encode, (path for path, _ in chunk))
        for (path, name), image in zip(chunk, encoded, strict=True):
          example = (
            {"image": image, "label": name} if name else {"image": image}
          )
          yield path.relative_to(self._source).as_posix(), example


def _folder(
  source: Path | None, name: str | None, data_dir: str | None
) -> Folder:
  """Returns the builder of a folder."""
  if source is None:
    raise ValueError("folder needs --source, the folder with the images")
  name = name or re.sub(r"\W+", "_", source.resolve().name.lower())
  known = tfds.list_builders(with_community_datasets=False)
  if not re.fullmatch(r"[a-z]\w*", name, re.ASCII) or name in known:
    raise ValueError(
      f"the set cannot be called {name!r}: expected lower-case letters, digits "
      "and underscores, and no name of a TFDS set; choose another --name"
    )
  return Folder(name=name, source=source, data_dir=data_dir)


def _builder(
  name: str, *, source: Path | None, set_name: str | None, data_dir: str | None
) -> tfds.core.DatasetBuilder:
  """Returns what writes a set.

  Raises:
    FileNotFoundError: the source is not a folder.
    ValueError: the source is not as expected, or the name is not known.
  """
  if source is not None and not source.is_dir():
    raise FileNotFoundError(f"--source {source} is not a folder")
  if name == "folder":
    return _folder(source, set_name, data_dir)
  if name == "fashion_mnist":
    if source is None and _DEBIAN_FASHION_MNIST.is_dir():
      source = _DEBIAN_FASHION_MNIST
    return FashionMnist(source=source, data_dir=data_dir)
  known = tfds.list_builders(with_community_datasets=False)
  if re.split("[/:]", name)[0] not in known:
    close = difflib.get_close_matches(name, ["folder", *known])
    raise ValueError(
      f"{name!r} is no set of TFDS, nor is it `folder`"
      + (f"; did you mean {' or '.join(close)}?" if close else "")
    )
  if importlib.util.find_spec("tensorflow") is None:
    raise ValueError(
      f"TFDS prepares {name} with TensorFlow: pip install 'jssl[prepare]'"
    )
  return tfds.builder(name, data_dir=data_dir)


def prepare(
  name: str,
  *,
  source: str | None = None,
  set_name: str | None = None,
  data_dir: str | None = None,
) -> str:
  """Writes a set to disk; see the docstring of this module.

  Args:
    name: `fashion_mnist`, `folder`, or another name of TFDS.
    source: folder of the images or of the IDX files.
    set_name: what the set of a folder is called.
    data_dir: where sets are written; None or "" is the default of TFDS.

  Returns:
    The directory of the set. If it was there already, it is left as it is.

  Raises:
    FileExistsError: the set of a folder was there already.
    OSError: something cannot be read or written.
    ValueError: the source is damaged or not as expected; says what to do.
  """
  builder = _builder(
    name,
    source=Path(source) if source else None,
    set_name=set_name,
    data_dir=data_dir or None,
  )
  prepared = builder.is_prepared()
  # Nothing tells whether a folder is still what was written from it, and what
  # TFDS itself prepared may be in another format.
  if prepared and (
    isinstance(builder, Folder)
    or builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD
  ):
    raise FileExistsError(
      f"{builder.data_dir} is there already; delete it to write it again, or "
      "choose another --data_dir"
    )
  if not prepared:
    builder.download_and_prepare(file_format="array_record")
  return str(builder.data_dir)


def main(argv: list[str]) -> None:
  """Prepares the set that the command line names."""
  if len(argv) != 2:
    raise app.UsageError("expected one set: fashion_mnist, folder or of TFDS")
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  try:
    directory = prepare(
      argv[1],
      source=_SOURCE.value,
      set_name=_NAME.value,
      data_dir=_DATA_DIR.value,
    )
  # TFDS says by an assertion where a set must be put by hand.
  except (OSError, ValueError, AssertionError) as error:
    sys.exit(f"error: {error}")
  print(f"{argv[1]} is in {directory}")


if __name__ == "__main__":
  app.run(main)
