"""TFDS's Fashion-MNIST from its IDX files, without TensorFlow."""

import gzip
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from jssl.data.encode import encode_image

Path = pathlib.Path
Examples = Iterator[tuple[int | bytes, dict[str, Any]]]

_IDX_FILES = {
  "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
  "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
  """Reads an IDX file of bytes, plain or compressed with gzip.

  Raises:
    ValueError: if the file is not IDX, not of bytes or has the wrong length.

  Reference: "The IDX file format" of the MNIST database: two zero bytes, 8 for
    unsigned bytes, the number of dimensions, each of them as a big-endian
    uint32, then the data in C order.
  """
  data, start = path.read_bytes(), 4 + 4 * dimensions
  try:
    if data[:2] == b"\x1f\x8b":
      data = gzip.decompress(data)
    if data[:4] != bytes([0, 0, 8, dimensions]):
      raise ValueError(
        f"expected an IDX file of bytes with {dimensions} dimensions, got one "
        f"that begins with {data[:4].hex()}"
      )
    shape = np.frombuffer(data[4:start], ">u4")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
  except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
    raise ValueError(
      f"{path}: truncated, damaged or another file after {len(data)} bytes "
      f"({error}); get the file again"
    ) from error


class FashionMnist(  # type: ignore[call-arg]
  tfds.image_classification.FashionMNIST, skip_registration=True
):
  """TFDS's Fashion-MNIST, written without TensorFlow."""

  name = "fashion_mnist"
  # TFDS would look for the checksums of downloads beside this file.
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
      f"{self._source} has neither {name} nor {name}.gz; expected --source to "
      "have the four IDX files of Fashion-MNIST"
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
    # TFDS shuffles by key: its keys give its order.
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
      encoded = encode_image(Image.fromarray(image))
      yield row, {"image": encoded, "label": int(label)}
