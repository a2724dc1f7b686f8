"""Writes a data set to disk in TFDS's format, as ArrayRecord files.

    jssl prepare fashion_mnist [--source DIR]
    jssl prepare folder --source DIR [--name NAME]
    jssl prepare NAME        # any other TFDS data set

The set opens with plain `tfds.data_source(NAME, data_dir=...)`. It is written
whole or not at all. Only other TFDS data sets need TensorFlow.

`fashion_mnist` takes the four IDX files, plain or .gz, from --source, or from
Debian's package dataset-fashion-mnist if installed; otherwise TFDS downloads
them. All give the same records in the same order.

`folder` takes a tree of image files. Folders are classes, see
`jssl/data/layout.py`; --labels=FILE.csv has a file name and a label on each
line instead, and --unlabelled takes any folders as one set. Files that are
passed over are in `passed_over.jsonl` of the set. The same command continues
after it was killed. Orientations in EXIF are applied. A damaged or
unreadable image is an error; --skip_damaged omits it.
Transparent images get a white background, or that of --background; --keep_alpha
stores 4 channels instead. Images of 16 bits and floats in [0, 1] keep their
values; --value_range=LOW,HIGH maps others. --channels=N takes images of N
channels. docs/images.md has all rules. --stored_size_px=256 stores larger
images as the 256 px squares that training reads, JPEGs as JPEGs, which takes a
third of the time to read. Training at a larger size would enlarge them.
--masks=DIR stores masks for the dense probe: DIR/a/b.png has the class of each
pixel of a/b.jpg, and 255 where it has none.
"""

import difflib
import importlib.util
import pathlib
import re
import shlex
import sys

import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags

from jssl.data.encode import Options
from jssl.data.fashion_mnist import FashionMnist
from jssl.data.folder import prepare_folder
from jssl.data.open import open_source
from jssl.data.statistics import pixel_statistics
from jssl.runtime import files, shipped, terminal

_SOURCE = flags.DEFINE_string(
  "source", None, "Folder of the images or of the IDX files."
)
_NAME = flags.DEFINE_string(
  "name", None, "Name of the set of a folder; default: name of the folder."
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Folder of the data sets; default: that of TFDS."
)
_LABELS = flags.DEFINE_string(
  "labels", None, "CSV file of file names in a folder and their labels."
)
_UNLABELLED = flags.DEFINE_bool(
  "unlabelled", False, "Take all images of a folder as a set without labels."
)
_WORKERS = flags.DEFINE_integer(
  "workers",
  None,
  "Processes that encode a folder; default: one for each processor.",
  lower_bound=1,
)
_SKIP_DAMAGED = flags.DEFINE_bool(
  "skip_damaged", False, "Omit damaged and unreadable images of a folder."
)
_BACKGROUND = flags.DEFINE_string(
  "background", "white", "Colour behind transparent pixels of a folder."
)
_KEEP_ALPHA = flags.DEFINE_bool(
  "keep_alpha", False, "Store the images of a folder with 4 channels."
)
_MASKS = flags.DEFINE_string(
  "masks",
  None,
  "Folder with a mask, FILE.png, for each image FILE.* of a folder.",
)
_CHANNELS = flags.DEFINE_integer(
  "channels",
  None,
  "Number of channels that the images of a folder must have; needed for others "
  "than gray and RGB.",
  lower_bound=1,
)
_VALUE_RANGE = flags.DEFINE_list(
  "value_range",
  None,
  "LOW,HIGH: values that are stored as 0 and the largest value, of images of "
  "a folder with more than 8 bits.",
)
_MAX_PIXELS = flags.DEFINE_integer(
  "max_pixels",
  None,
  "Largest number of pixels of an image of a folder, with --stored_size_px; "
  "default: 178,956,970.",
  lower_bound=2,
)
_STORED_SIZE_PX = flags.DEFINE_integer(
  "stored_size_px",
  None,
  "Store larger images of a folder as centre squares of this size.",
  lower_bound=1,
)

Path = pathlib.Path

# Number and side of the images whose mean and deviation are measured.
_MEASURED_IMAGES, _MEASURED_SIZE_PX = 1000, 64

_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def _folder_name(name: str | None, source: Path) -> str:
  name = name or re.sub(r"\W+", "_", source.resolve().name.lower())
  known = tfds.list_builders(with_community_datasets=False)
  if not re.fullmatch(r"[a-z]\w*", name, re.ASCII) or name in known:
    raise ValueError(
      f"the set cannot be called {name!r}: expected lower-case letters, digits "
      "and underscores, and no name of a TFDS data set; choose another --name"
    )
  return name


def _tfds_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
  known = tfds.list_builders(with_community_datasets=False)
  if re.split("[/:]", name)[0] not in known:
    close = difflib.get_close_matches(name, ["folder", *known])
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"{name!r} is neither a TFDS data set nor `folder`{hint}")
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
  labels: str | None = None,
  unlabelled: bool = False,
  workers: int | None = None,
  options: Options = Options(),
) -> str:
  """Writes a data set to disk, as described at the top of this module.

  Arguments are those of the command line; `set_name` names the set of a folder.
  TFDS does not check other images, see `data.skip_damaged` of a config.

  Returns:
    The directory of the set. An existing set is kept.

  Raises:
    FileExistsError: if the set of a folder exists.
    OSError: if a file cannot be read or written.
    ValueError: if the source is damaged or unexpected, or the name unknown.
  """
  folder = Path(source) if source else None
  files.check_expanded("--data_dir", data_dir or "")
  files.check_utf8("--data_dir", data_dir or "")
  files.check_local("--data_dir", data_dir or "")
  files.check_local("--source", source or "")
  data_dir = data_dir or None
  if folder is not None and not folder.is_dir():
    raise FileNotFoundError(f"--source {folder} is not a folder")
  root = data_dir or tfds.core.constants.DATA_DIR
  if root.startswith("~"):
    raise ValueError(
      "--data_dir: expected a folder for the data sets, because the default is "
      "in the home of the user, who has none (HOME is not set)"
    )
  if name == "folder":
    if folder is None:
      raise ValueError("folder needs --source, the folder with the images")
    target, counts = prepare_folder(
      folder,
      name=_folder_name(set_name, folder),
      data_dir=Path(root),
      labels=Path(labels) if labels else None,
      unlabelled=unlabelled,
      workers=workers,
      options=options,
    )
    print(counts)
    return str(target)
  if labels or unlabelled or options != Options():
    raise ValueError(
      f"{options}, labels={labels}, unlabelled={unlabelled}: only images of a "
      "folder can be stored in another way, not those of "
      f"{name}; omit the flags"
    )
  if name == "fashion_mnist":
    if folder is None and _DEBIAN_FASHION_MNIST.is_dir():
      folder = _DEBIAN_FASHION_MNIST
    builder = FashionMnist(source=folder, data_dir=data_dir)
  else:
    builder = _tfds_builder(name, data_dir)

  prepared = builder.is_prepared()
  # TFDS may have used another file format.
  if prepared and (
    builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD
  ):
    raise FileExistsError(
      f"{builder.data_dir} exists; delete it to write it again, or choose "
      "another --data_dir"
    )
  if not prepared:
    builder.download_and_prepare(file_format="array_record")
  return str(builder.data_dir)


def summary(
  name: str, directory: str, data_dir: str | None, *, is_folder: bool
) -> str:
  """Describes a prepared set, and names the next command.

  Args:
    name: name of the set.
    directory: directory of the set.
    data_dir: folder of the data sets, if it is not that of TFDS.
    is_folder: True for a set of `prepare folder`.
  """
  info = tfds.builder_from_directory(directory).info
  counts = [f"{k} {s.num_examples:,}" for k, s in info.splits.items()]
  size = files.format_bytes(sum(s.num_bytes for s in info.splits.values()))
  source = open_source(
    name,
    data_dir=data_dir,
    split="train" if "train" in info.splits else next(iter(info.splits)),
    image_size_px=_MEASURED_SIZE_PX,
  )
  found = pixel_statistics(source, images=_MEASURED_IMAGES)
  # A constant channel cannot be divided by its deviation.
  divisor = np.where(found.std > 0, found.std, 1)
  mean, deviation, std = (
    ",".join(f"{x:.3f}" for x in xs) for xs in (*found, divisor)
  )
  flags = [f"--config.data.data_dir={data_dir}"] if data_dir else []
  if is_folder:
    pixels = [f"--config.model.mean={mean}", f"--config.model.std={std}"]
    flags = [f"--config=folder:{name}", *pixels, *flags]
  elif f"simclr_{name}" in shipped.configs():
    flags = [f"--config=simclr_{name}", *flags]
  else:
    # `jssl configs` lists those of this set.
    flags = ["--config=CONFIG", f"--config.data.name={name}", *flags]
  return "\n".join(
    [
      f"{name}: {', '.join(counts)} images, {size}, in {directory}",
      f"Pixels in [0, 1]: mean {mean}, deviation {deviation}.",
      f"Next: {shlex.join(['jssl', 'train', *flags, '--workdir=W'])}",
    ]
  )


def _value_range(given: list[str] | None) -> tuple[float, float] | None:
  """Reads the flag --value_range."""
  if given is None:
    return None
  try:
    low, high = map(float, given)
  except ValueError as error:
    raise ValueError(
      f"--value_range={','.join(given)}: expected two numbers, such as 0,10000"
    ) from error
  return low, high


def main(argv: list[str]) -> None:
  """Prepares the data set that the command line names."""
  terminal.make_output_safe()
  if len(argv) != 2:
    raise app.UsageError("expected one of fashion_mnist, folder or a TFDS name")
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  try:
    directory = prepare(
      argv[1],
      source=_SOURCE.value,
      set_name=_NAME.value,
      data_dir=_DATA_DIR.value,
      labels=_LABELS.value,
      unlabelled=_UNLABELLED.value,
      workers=_WORKERS.value,
      options=Options(
        skip_damaged=_SKIP_DAMAGED.value,
        stored_size_px=_STORED_SIZE_PX.value,
        background=_BACKGROUND.value,
        keep_alpha=_KEEP_ALPHA.value,
        channels=_CHANNELS.value,
        value_range=_value_range(_VALUE_RANGE.value),
        max_pixels=_MAX_PIXELS.value,
        masks=Path(_MASKS.value) if _MASKS.value else None,
      ),
    )
    is_folder = argv[1] == "folder"
    name = Path(directory).parent.name if is_folder else argv[1]
    print(summary(name, directory, _DATA_DIR.value, is_folder=is_folder))
  # TFDS raises AssertionError for sets that must be downloaded by hand.
  except (OSError, ValueError, AssertionError) as error:
    sys.exit(f"error: {error}")


if __name__ == "__main__":
  app.run(main)
