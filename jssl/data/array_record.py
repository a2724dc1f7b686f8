"""Data sets in ArrayRecord files, as TFDS writes them."""

import functools
import shlex
from collections.abc import Callable
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import file_adapters, read_only_builder

from jssl.data.arrays import DTYPES
from jssl.data.image import (
  MODES,
)
from jssl.data.prepared import (
  MASK_KEYS,
  Prepared,
  SegmentedPrepared,
  check_open_files,
)
from jssl.runtime.files import fetch
from jssl.runtime.paths import StorePath, as_path, is_url

_FEATURE_CLASSES = "tensorflow_datasets.core.features."
_FIND_CLASS = tfds.features.FeatureConnector.cls_from_name
# Of Folder, and of sets of TFDS.
_NAME_KEYS = ("file_name", "image/filename")


def _first_key(features: tfds.features.FeaturesDict, kind: type) -> str | None:
  return next((k for k, f in features.items() if isinstance(f, kind)), None)


def _prepare_command(name: str, data_dir: str | None) -> str:
  known = tfds.list_builders(with_community_datasets=False)
  if name.split("/")[0].split(":")[0] in known:
    words = [name]
  else:
    words = ["folder", "--source", "DIR", "--name", name]
  if data_dir:
    words += ["--data_dir", data_dir]
  return shlex.join(["python", "-m", "jssl.data.prepare", *words])


def _readable(name: str, data_dir: str | None) -> str | None:
  """Returns where ArrayRecord reads a set: on disk, in gs://, or a copy."""
  folder = as_path(data_dir or "")
  if not isinstance(folder, StorePath) or folder.scheme == "gs":
    return data_dir
  of_set = name.split("/")[0].split(":")[0]
  objects = (folder / of_set).objects()
  return str(fetch(folder, [f"{of_set}/{path}" for path in objects]))


def _find_feature_class(
  set_name: str, name: str
) -> type[tfds.features.FeatureConnector]:
  """Returns a feature class of TFDS by name.

  TFDS would import the module of any name, also one beside the records.
  """
  if not name.startswith(_FEATURE_CLASSES):
    raise ValueError(
      f"features.json of data.name={set_name!r} names the feature class "
      f"{name!r}; expected only classes of {_FEATURE_CLASSES}*, because "
      "opening the set would run the code of another module"
    )
  return _FIND_CLASS(name)


def open_prepared(
  name: str,
  *,
  data_dir: str | None,
  split: str,
  image_size_px: int,
  skip_damaged: bool = False,
) -> Prepared:
  """Opens a split of a prepared set; see `jssl.data.open.open_source`.

  Raises:
    FileNotFoundError: if the set is not prepared; names the command to run.
    ValueError: if the set lacks the split or images, or its file format has no
      random access.
  """
  try:
    # `tfds.builder` would load the code of the set and query the network.
    with mock.patch.object(
      tfds.features.FeatureConnector,
      "cls_from_name",
      functools.partial(_find_feature_class, name),
    ):
      builder = read_only_builder.builder_from_files(
        name, data_dir=_readable(name, data_dir)
      )
  except tfds.core.DatasetNotFoundError as error:
    advice = f"run: {_prepare_command(name, data_dir)}"
    if is_url(data_dir or ""):
      advice = "prepare it on a disk, and copy its folder there"
    raise FileNotFoundError(
      f"data.name={name!r} is not in {data_dir or tfds.core.constants.DATA_DIR}"
      f" (data.data_dir); {advice}"
    ) from error
  features = builder.info.features
  encoded, arrays = (
    [
      key
      for key, feature in features.items()
      if isinstance(feature, kind) and len(feature.shape) == 3
    ]
    for kind in (tfds.features.Image, tfds.features.Tensor)
  )
  mask_key = next((key for key in MASK_KEYS if key in encoded), None)
  images = [key for key in (*encoded, *arrays) if key != mask_key]
  image_key = next(iter(images), None)
  label_key = _first_key(features, tfds.features.ClassLabel)
  if image_key is None:
    raise ValueError(
      f"data.name={name!r} has no image feature, only {sorted(features)}"
    )
  encoded_keys = [image_key, *([mask_key] if mask_key else [])]
  file_format = builder.info.file_format
  if file_format not in file_adapters.FileFormat.with_random_access():
    raise ValueError(
      f"data.name={name!r} is stored as {file_format.value}, which has no "
      f"random access; delete {builder.data_dir} and run: "
      f"{_prepare_command(name, data_dir)}"
    )
  try:
    files = builder.info.splits[split].file_instructions
    records = builder.as_data_source(
      split=split,
      decoders=dict.fromkeys(encoded_keys, tfds.decode.SkipDecoding()),
    )
  except (KeyError, ValueError) as error:
    raise ValueError(
      f"data.name={name!r} has the splits {sorted(builder.info.splits)}, not "
      f"{split!r}"
    ) from error
  image = features[image_key]
  channels, dtype = image.shape[-1], np.dtype(image.np_dtype)
  array = None if isinstance(image, tfds.features.Image) else image
  if channels not in MODES and array is None:
    raise ValueError(
      f"data.name={name!r} has images of {channels} channels; expected one of "
      f"{', '.join(map(str, MODES))}"
    )
  if dtype not in ((np.uint8, np.uint16) if array is None else DTYPES):
    raise ValueError(
      f"data.name={name!r} has images of {dtype}; expected files of uint8 or "
      f"uint16, or arrays of {', '.join(map(str, DTYPES))}"
    )
  check_open_files(name, len(files))
  make: Callable[..., Prepared] = Prepared
  if mask_key:
    make = functools.partial(SegmentedPrepared, mask_key=mask_key)
  return make(
    name=name,
    split=split,
    class_names=tuple(features[label_key].names) if label_key else (),
    image_shape=(image_size_px, image_size_px, channels),
    image_dtype=dtype,
    image_key=image_key,
    label_key=label_key,
    records=records,
    files=files,
    skip_damaged=skip_damaged,
    name_key=next((key for key in _NAME_KEYS if key in features), None),
    array=array,
  )
