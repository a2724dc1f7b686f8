"""Arrow files that give random access to Parquet and tar files.

A Parquet file is copied, because reading one image of it would decompress a
group of hundreds. Of a tar file, the positions of its images are listed.

Each file is made once, in a folder `.jssl` beside the original, or in
`jssl/sets` of the user's cache folder where that cannot be written. The size
and time of the original are in its name, so a changed original is read again.
"""

import hashlib
import json
import os
import pathlib
import tarfile
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging

from jssl.data.image import is_damage
from jssl.data.layout import file_name
from jssl.runtime.files import make_once, open_atomically, user_cache

Path = pathlib.Path

_INDEX = pa.schema(
  {
    "image": pa.struct(
      {"offset": pa.int64(), "size": pa.int64(), "path": pa.string()}
    ),
    "label": pa.string(),
  }
)
_IMAGE_SUFFIXES = frozenset(
  {"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"}
)
_EXPECTED_TAR = (
  "expected an uncompressed tar file with members such as 0001.jpg and 0001.cls"
)


def _copy_parquet(path: Path, out: BinaryIO) -> None:
  # Batch by batch: a file may be larger than the memory.
  with pq.ParquetFile(path) as file:
    schema = file.schema_arrow
    with pa.ipc.new_file(out, schema) as to:
      for batch in file.iter_batches(batch_size=100):
        to.write_batch(batch)


def _read_label(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
  file = tar.extractfile(member)
  text: Any = file.read().decode().strip() if file else None
  if member.name.lower().endswith(".json"):
    values = json.loads(text)
    text = values.get("label") if isinstance(values, dict) else None
  return str(text) if text not in (None, "") else None


def _index_tar(path: Path, out: BinaryIO) -> None:
  samples: dict[str, dict[str, Any]] = {}
  repeated = 0
  with tarfile.open(path, "r:") as tar:
    for member in tar:
      folder, _, name = member.name.rpartition("/")
      stem, _, suffix = name.partition(".")
      suffix = suffix.lower()
      if not (member.isreg() and stem and suffix):
        continue
      # Members of a sample have one name and different suffixes.
      sample = samples.setdefault(f"{folder}/{stem}", {})
      if suffix in _IMAGE_SUFFIXES:
        repeated += "image" in sample
        image = {"offset": member.offset_data, "size": member.size}
        sample.setdefault("image", image | {"path": file_name(member.name)})
      elif suffix in ("cls", "json"):
        sample["label"] = _read_label(tar, member) or sample.get("label")
    end = tar.offset
  with path.open("rb") as file:
    file.seek(end)
    # `tarfile` takes a header that is cut off for the end.
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
      raise ValueError("truncated")
  rows = [sample for sample in samples.values() if "image" in sample]
  without = len(samples) - len(rows)
  if without or repeated:
    logging.warning(
      "%s: left out %d samples without an image, and %d images that are not "
      "the first of their sample.",
      path,
      without,
      repeated,
    )
  with pa.ipc.new_file(out, _INDEX) as to:
    to.write_table(pa.Table.from_pylist(rows, _INDEX))


def arrow_file(path: Path) -> Path:
  """Returns the Arrow file of a Parquet or tar file, made if it is missing.

  Arrow files are returned as they are.

  Raises:
    ValueError: if the file is damaged.
    OSError: if neither the folder of the file nor the cache can be written.
  """
  if path.suffix == ".arrow":
    return path
  about = path.stat()
  name = f"{path.name}-{about.st_size:x}-{about.st_mtime_ns:x}.arrow"
  key = hashlib.sha256(os.fsencode(path.parent.resolve())).hexdigest()[:16]
  places = [path.parent / ".jssl", user_cache() / "sets" / key]
  for folder in places:
    if (folder / name).exists():
      return folder / name
  try:
    places[0].mkdir(exist_ok=True)
    writable = os.access(places[0], os.W_OK)
  except OSError:
    writable = False
  made = places[0 if writable else 1] / name
  tar = path.suffix == ".tar"
  with make_once(made) as missing:
    if not missing:
      return made
    logging.info("%s %s to %s.", "Indexing" if tar else "Copying", path, made)
    try:
      with open_atomically(made) as out:
        (_index_tar if tar else _copy_parquet)(path, out)
    except Exception as error:
      if not is_damage(error):
        raise
      expected = _EXPECTED_TAR if tar else "expected a Parquet file"
      raise ValueError(
        f"{path} is damaged ({error}); {expected}; write or download it again"
      ) from error
  return made
