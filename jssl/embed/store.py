"""Files of embeddings: Parquet or .npz, written in parts.

Finished parts are kept in a folder beside the output until it is complete, so
that a killed run resumes after the last of them.
"""

import contextlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from jssl.runtime import files
from jssl.runtime.paths import Path, StorePath

SUFFIXES = (".parquet", ".npz")
_KEY = b"jssl"
_MANIFEST = "manifest.json"
# Advice for each key in which parts differ from a run.
_FLAGS = {
  "jssl": "install that version",
  "weights": "change --workdir, --weights, --step or --student",
  "images": "change --source, --list, --dataset or --split",
  "tokens": "change --tokens",
  "batch_size": "change --batch_size, or the number of devices",
}


class Embeddings(NamedTuple):
  """Rows of a file of embeddings.

  Attributes:
    names: file name of each image; None where it is not known.
    rows: row of each image in the source.
    classes: class of each image; () if the set is unlabelled.
    features: pooled features.
    about: metadata of the file, see docs/embed.md.
  """

  names: tuple[str | None, ...]
  rows: Int[np.ndarray, "n"]
  classes: tuple[str | None, ...]
  features: Float[np.ndarray, "n d"]
  about: Mapping[str, Any]


def check_out(out: Path, *, overwrite: bool) -> None:
  """Raises an error, with the flag to change, unless `out` can be written."""
  if out.suffix not in SUFFIXES:
    raise ValueError(
      f"--out={out}: expected a file that ends in {' or '.join(SUFFIXES)}"
    )
  if not (isinstance(out, StorePath) or out.parent.is_dir()):
    raise FileNotFoundError(
      f"--out={out}: {out.parent} is not a folder; make it, or change --out"
    )
  if out.is_dir() or (out.exists() and not overwrite):
    raise FileExistsError(
      f"--out={out} exists; change --out, or replace the file by --overwrite"
    )


def make_schema(
  features: int, tokens: tuple[int, int] | None, *, labelled: bool
) -> pa.Schema:
  """Returns the columns; those of tokens [n, w] are flat."""
  fields = [pa.field("name", pa.string()), pa.field("index", pa.int64())]
  if labelled:
    fields += [pa.field("label", pa.int32()), pa.field("class", pa.string())]
  fields.append(pa.field("features", pa.list_(pa.float32(), features)))
  if tokens:
    size = tokens[0] * tokens[1]
    fields.append(pa.field("tokens", pa.list_(pa.float32(), size)))
  return pa.schema(fields)


def vectors(array: Float[np.ndarray, "n d"]) -> pa.Array:
  """Returns rows as a column of lists of fixed size."""
  flat = pa.array(np.ascontiguousarray(array).reshape(-1))
  return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])


def _array(column: pa.ChunkedArray) -> np.ndarray:
  """Returns a column as an array, one row per list; missing text is ""."""
  if pa.types.is_string(column.type):
    return np.array([text or "" for text in column.to_pylist()], np.str_)
  if not pa.types.is_fixed_size_list(column.type):
    return column.to_numpy()
  flat = column.combine_chunks().flatten().to_numpy()
  return flat.reshape(-1, column.type.list_size)


@contextlib.contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
  text = [n for n in ("name", "class") if n in schema.names]
  with (
    files.open_atomically(path) as file,
    # Features do not compress, and nothing reads their extrema.
    pq.ParquetWriter(
      file,
      schema,
      compression=dict.fromkeys(text, "zstd"),
      use_dictionary=text,
      write_statistics=[n for n in ("index", "label") if n in schema.names],
    ) as writer,
  ):
    yield writer


class Parts:
  """Finished parts of an output.

  Attributes:
    schema: columns of the output.
    damaged: [row, reason] of each image without a row, in the parts so far.
  """

  def __init__(self, out: Path, schema: pa.Schema, about: Mapping[str, Any]):
    """Touches no files; `about` has all inputs of the rows."""
    self.schema, self._out, self._about = schema, out, dict(about)
    self._folder = out.with_name(f"{out.name}.parts")
    self._count = 0
    self.damaged: list[tuple[int, str]] = []

  def _part(self, number: int) -> Path:
    return self._folder / f"{number:06}.parquet"

  def open(self, *, overwrite: bool) -> int:
    """Returns the number of finished parts of an earlier run.

    Parts of other weights or images are removed if `overwrite` is True.

    Raises:
      OSError: if the output cannot be written, see `check_out`.
      ValueError: if there are such parts, with the flag to change.
    """
    check_out(self._out, overwrite=overwrite)
    manifest = self._folder / _MANIFEST
    found = files.read_json(manifest)
    if found != self._about and any(self._folder.glob("*.parquet")):
      if not overwrite:
        raise ValueError(self._difference(found or {}))
      files.remove_tree(self._folder)
    self._folder.mkdir(exist_ok=True)
    files.write_json(manifest, self._about)
    while (damaged := _read_damaged(self._part(self._count))) is not None:
      self.damaged += damaged
      self._count += 1
    return self._count

  def _difference(self, found: Mapping[str, Any]) -> str:
    key = next(
      (k for k in (*_FLAGS, *self._about) if found.get(k) != self._about[k]),
      "jssl",
    )
    flag = _FLAGS.get(key, "change the flags")
    return (
      f"{self._folder} has parts of a run with {key} {found.get(key)!r}, and "
      f"this run has {self._about[key]!r}: to resume that run, {flag}; to "
      "discard it, use --overwrite; or change --out"
    )

  def write(self, table: pa.Table, damaged: list[tuple[int, str]]) -> None:
    """Writes the next part, and the reasons of its images without a row."""
    schema = self.schema.with_metadata({_KEY: json.dumps(damaged)})
    with _parquet(self._part(self._count), schema) as writer:
      writer.write_table(table.combine_chunks())
    self.damaged += damaged
    self._count += 1

  def _tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
    for number in range(self._count):
      yield pq.read_table(_readable(self._part(number)), columns=columns)

  def _arrays(self, name: str) -> Iterator[np.ndarray]:
    return (_array(table[name]) for table in self._tables([name]))

  def join(self) -> int:
    """Writes the output from all parts, removes them; returns its rows.

    Raises:
      ValueError: if no image could be read. The parts are removed, so that the
        next run reads the images again.
    """
    about = json.dumps({**self._about, "damaged": self.damaged})
    rows = sum(
      pq.read_metadata(_readable(self._part(number))).num_rows
      for number in range(self._count)
    )
    if not rows:
      files.remove_tree(self._folder)
      raise ValueError(
        f"none of the {len(self.damaged)} images of {self._about['source']} "
        f"can be read; the first: {self.damaged[0][1]}"
      )
    # Complete before it gets its name, as any object of a store is.
    in_store = isinstance(self._out, StorePath)
    whole = self._out if in_store else self._folder / self._out.name
    if self._out.suffix == ".npz":
      with files.open_atomically(whole) as file:
        self._write_npz(file, rows, about)
    else:
      schema = self.schema.with_metadata({_KEY: about})
      with _parquet(whole, schema) as writer:
        for table in self._tables():
          if table.num_rows:
            writer.write_table(table.replace_schema_metadata(schema.metadata))
    if not in_store:
      whole.replace(self._out)
    files.remove_tree(self._folder)
    return rows

  def _write_npz(self, file: Any, rows: int, about: str) -> None:
    """Writes the columns as arrays, one part in memory at a time."""
    with zipfile.ZipFile(file, "w") as archive:
      for field in self.schema:
        name, shape = field.name, (rows,)
        if pa.types.is_fixed_size_list(field.type):
          size = [field.type.list_size]
          shape += (*(self._about["tokens"] if name == "tokens" else size),)
          dtype = np.dtype(field.type.value_type.to_pandas_dtype())
        elif pa.types.is_string(field.type):
          # That of the longest text.
          dtype = np.result_type(*(a.dtype for a in self._arrays(name)))
        else:
          dtype = np.dtype(field.type.to_pandas_dtype())
        _write_array(archive, name, dtype, shape, self._arrays(name))
      text = np.array(about)
      _write_array(archive, "about", text.dtype, (), [text])


def _write_array(
  archive: zipfile.ZipFile,
  name: str,
  dtype: np.dtype,
  shape: tuple[int, ...],
  blocks: Iterable[np.ndarray],
) -> None:
  """Writes an array of an .npz file, block by block."""
  # Without a date, so that the same rows are the same bytes.
  info = zipfile.ZipInfo(f"{name}.npy")
  with archive.open(info, "w", force_zip64=True) as member:
    header = {
      "descr": np.lib.format.dtype_to_descr(dtype),
      "fortran_order": False,
      "shape": shape,
    }
    np.lib.format.write_array_header_1_0(member, header)
    for block in blocks:
      member.write(np.ascontiguousarray(block, dtype).tobytes())


def _readable(path: Path) -> Any:
  """Returns what Arrow reads: a path, or the bytes of an object."""
  if isinstance(path, StorePath):
    return pa.BufferReader(path.read_bytes())
  return path


def _read_damaged(path: Path) -> list[tuple[int, str]] | None:
  """Returns the damaged images of a part; None if it is not finished."""
  try:
    found = json.loads(pq.read_schema(_readable(path)).metadata[_KEY])
  except (FileNotFoundError, pa.ArrowInvalid, KeyError, ValueError):
    return None
  return [(row, reason) for row, reason in found]


def read(path: Path) -> Embeddings:
  """Reads a file of `jssl embed`, without its tokens.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is not a file of `jssl embed`.
  """
  if not path.is_file():
    raise FileNotFoundError(f"{path} does not exist")
  problem = f"{path} is not a file of `jssl embed`"
  try:
    if path.suffix == ".npz":
      with path.open("rb") as file, np.load(file) as arrays:
        return Embeddings(
          names=tuple(name or None for name in arrays["name"].tolist()),
          rows=arrays["index"],
          classes=tuple(name or None for name in arrays["class"].tolist())
          if "class" in arrays
          else (),
          features=arrays["features"],
          about=json.loads(str(arrays["about"])),
        )
    schema = pq.read_schema(_readable(path))
    labelled = "class" in schema.names
    columns = ["name", "index", "features", *(["class"] * labelled)]
    table = pq.read_table(_readable(path), columns=columns)
    return Embeddings(
      names=tuple(table["name"].to_pylist()),
      rows=table["index"].to_numpy(),
      classes=tuple(table["class"].to_pylist()) if labelled else (),
      features=_array(table["features"]),
      about=json.loads(schema.metadata[_KEY]),
    )
  # Errors of Arrow are ValueErrors.
  except (
    *(ValueError, KeyError, TypeError),
    *(EOFError, zipfile.BadZipFile),
  ) as error:
    raise ValueError(f"{problem}: {error}") from error
