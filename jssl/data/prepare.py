"""Writes a set to disk as TFDS does, in ArrayRecord, readable by row.

    python -m jssl.data.prepare fashion_mnist [--source DIR]
    python -m jssl.data.prepare folder --source DIR [--name NAME]
    python -m jssl.data.prepare NAME        # any other set of TFDS

What is written opens with plain `tfds.data_source(NAME, data_dir=...)`, and is
there whole or not at all. Only the other sets of TFDS need TensorFlow.

`fashion_mnist` takes the four IDX files, plain or .gz, from --source; else
from Debian's package dataset-fashion-mnist if that is installed; else TFDS
downloads them. All give the same records in the same order.

`folder` takes a tree of PNG and JPEG files, see `jssl/data/folder.py`. One that
is damaged is an error; with --skip_damaged it is left out. With
--stored_size_px=256 larger images are stored as the squares of 256 px that the
reader would make of them, JPEGs as JPEGs: reading them takes a third of the
time. At a larger size than that they would be enlarged.
"""

import difflib
import importlib.util
import pathlib
import re
import sys

import tensorflow_datasets as tfds
from absl import app, flags

from jssl.data.folder import Folder
from jssl.data.idx import FashionMnist

_SOURCE = flags.DEFINE_string(
  "source", None, "Folder of the images, or of the IDX files."
)
_NAME = flags.DEFINE_string(
  "name", None, "What the set of a folder is called; default: as the folder."
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Where sets are written; default: where TFDS looks."
)

_SKIP_DAMAGED = flags.DEFINE_bool(
  "skip_damaged",
  False,
  "Whether damaged images of a folder are left out; otherwise they are errors.",
)
_STORED_SIZE_PX = flags.DEFINE_integer(
  "stored_size_px",
  None,
  "Height and width that larger images of a folder are stored at, cropped to "
  "the square in their middle; kept as they are if not given.",
  lower_bound=1,
)

Path = pathlib.Path

_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def _folder(
  source: Path | None,
  name: str | None,
  data_dir: str | None,
  skip_damaged: bool,
  stored_size_px: int | None,
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
  return Folder(
    name=name,
    source=source,
    data_dir=data_dir,
    skip_damaged=skip_damaged,
    stored_size_px=stored_size_px,
  )


def _builder(
  name: str,
  *,
  source: Path | None,
  set_name: str | None,
  data_dir: str | None,
  skip_damaged: bool,
  stored_size_px: int | None,
) -> tfds.core.DatasetBuilder:
  """Returns what writes a set.

  Raises:
    FileNotFoundError: the source is not a folder.
    ValueError: the source is not as expected, or the name is not known.
  """
  if source is not None and not source.is_dir():
    raise FileNotFoundError(f"--source {source} is not a folder")
  if name == "folder":
    return _folder(source, set_name, data_dir, skip_damaged, stored_size_px)
  if stored_size_px is not None:
    raise ValueError(
      f"--stored_size_px={stored_size_px}: only images of a folder are stored "
      f"at another size, those of {name} as TFDS has them; leave it away"
    )
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
  skip_damaged: bool = False,
  stored_size_px: int | None = None,
) -> str:
  """Writes a set to disk; see the docstring of this module.

  Args:
    name: `fashion_mnist`, `folder`, or another name of TFDS.
    source: folder of the images or of the IDX files.
    set_name: what the set of a folder is called.
    data_dir: where sets are written; None or "" is the default of TFDS.
    skip_damaged: whether damaged images of a folder are left out, with a
      warning; otherwise they are errors. Other sets are written by TFDS,
      which looks into no image: see `data.skip_damaged` of a config.
    stored_size_px: height and width that larger images of a folder are stored
      at; None keeps them as they are.

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
    skip_damaged=skip_damaged,
    stored_size_px=stored_size_px,
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
      skip_damaged=_SKIP_DAMAGED.value,
      stored_size_px=_STORED_SIZE_PX.value,
    )
  # TFDS says by an assertion where a set must be put by hand.
  except (OSError, ValueError, AssertionError) as error:
    sys.exit(f"error: {error}")
  print(f"{argv[1]} is in {directory}")


if __name__ == "__main__":
  app.run(main)
