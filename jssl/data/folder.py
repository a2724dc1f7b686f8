"""A folder of image files as a TFDS data set, without TensorFlow.

See `layout` for its subfolders. The set has one channel if all images are
grayscale, otherwise 3, or 4 if it keeps transparency, or those of --channels.
"""

import concurrent.futures
import functools
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from jssl.data.encode import (
  DamagedFile,
  Encoded,
  Kind,
  Options,
  encode,
  join_kinds,
  read_mask,
)
from jssl.data.layout import Classes, Path, file_name, key, list_splits

Examples = Iterator[tuple[int | bytes, dict[str, Any]]]

# Images in memory at once.
_CHUNK_SIZE = 256


def _encode(
  path: Path, *, options: Options, kind: Kind | None = None
) -> Encoded | None:
  """Encodes a file; returns None for a damaged one that may be skipped."""
  data = path.read_bytes()
  try:
    return encode(data, options=options, kind=kind)
  except DamagedFile as error:
    if options.skip_damaged:
      return None
    raise ValueError(
      f"{path}: {error}; repair or remove it, or omit damaged images with "
      "--skip_damaged"
    ) from error
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


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
    options: Options = Options(),
    **kwargs: Any,
  ):
    self.name = name
    self._source = source
    self._options = options
    self._splits = list_splits(source)
    headers = [
      encoded[1:]
      for classes in self._splits.values()
      for paths in classes.values()
      for path in paths
      if (encoded := _encode(path, options=options))
    ]
    if not headers:
      raise ValueError(f"{source} has no image that can be stored")
    kinds = {kind for kind, _, _ in headers}
    self._kind = join_kinds(kinds)
    if len(dtypes := sorted({str(kind.dtype) for kind in kinds})) > 1:
      logging.warning(
        "The images are of %s, and are stored as %s; convert those to store "
        "all precisely.",
        " and ".join(dtypes),
        self._kind.dtype,
      )
    sizes = {size for _, size, _ in headers}
    transparent = sum(some for _, _, some in headers)
    if transparent and not options.keep_alpha:
      logging.warning(
        "%d of %d images have transparency, and get the background %s; "
        "--background names another, and --keep_alpha keeps transparency.",
        transparent,
        len(headers),
        options.background,
      )
    same_size = len(sizes) == 1 and options.stored_size_px is None
    width, height = sizes.pop() if same_size else (None, None)
    self._image_shape = (height, width, self._kind.channels)
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    shape, kind = self._image_shape, self._kind
    # TFDS reads image files of 16 bits only with OpenCV.
    image = (
      tfds.features.Image(shape=shape)
      if kind.mode(self._options)
      else tfds.features.Tensor(shape=shape, dtype=kind.dtype, encoding="zlib")
    )
    features: dict[str, Any] = {
      "image": image,
      "file_name": tfds.features.Text(),
    }
    if self._options.masks:
      features["mask"] = tfds.features.Image(shape=(None, None, 1))
    if "" not in self._splits["train"]:
      names = sorted(self._splits["train"])
      features["label"] = tfds.features.ClassLabel(names=names)
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"Images of the folder set {self.name}.",
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
    encode = functools.partial(_encode, kind=self._kind, options=self._options)
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(files), _CHUNK_SIZE):
        chunk = files[start : start + _CHUNK_SIZE]
        encoded = pool.map(encode, (path for path, _ in chunk))
        for (path, name), image in zip(chunk, encoded, strict=True):
          if image is None:
            logging.warning("Omitted damaged image %s.", path)
            continue
          relative = path.relative_to(self._source)
          example = {
            "image": image.data,
            "file_name": file_name(relative),
            **({"label": name} if name else {}),
          }
          if masks := self._options.masks:
            mask = (masks / relative).with_suffix(".png")
            example["mask"] = read_mask(mask, image.size, path)
          yield key(path, self._source), example
