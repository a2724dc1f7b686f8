"""Files of embeddings: Parquet or .npz, written in parts.

Finished parts are kept in a folder beside the output until it is complete, so
that a killed run resumes after the last of them.
"""

import contextlib
import json
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from jssl.runtime import files

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


def check_out(out: pathlib.Path, *, overwrite: bool) -> None:
  """Raises an error, with the flag to change, unless `out` can be written."""
  if out.suffix not in SUFFIXES:
    raise ValueError(
      f"--out={out}: expected a file that ends in {' or '.join(SUFFIXES)}"
    )
  if not out.parent.is_dir():
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
  """Returns a column as an array, one row per list."""
  if not pa.types.is_fixed_size_list(column.type):
    return column.to_numpy()
  flat = column.combine_chunks().flatten().to_numpy()
  return flat.reshape(-1, column.type.list_size)


@contextlib.contextmanager
def _parquet(
  path: pathlib.Path, schema: pa.Schema
) -> Iterator[pq.ParquetWriter]:
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
    damaged: [row, reason] of each image without a row, in the parts so far.
  """

  def __init__(
    self, out: pathlib.Path, schema: pa.Schema, about: Mapping[str, Any]
  ):
    """Touches no files; `about` has all inputs of the rows."""
    self._out, self._schema, self._about = out, schema, dict(about)
    self._folder = out.with_name(f"{out.name}.parts")
    self.damaged: list[tuple[int, str]] = []

  def _part(self, number: int) -> pathlib.Path:
    return self._folder / f"{number:06}.parquet"

  def open(self, *, overwrite: bool) -> int:
    """Returns the number of finished parts of an earlier run.

    Parts of other weights or images are removed if `overwrite` is True.

    Raises:
      ValueError: if there are such parts, with the flag to change.
    """
    manifest = self._folder / _MANIFEST
    found = files.read_json(manifest)
    if found != self._about and any(self._folder.glob("*.parquet")):
      if not overwrite:
        raise ValueError(self._difference(found or {}))
      shutil.rmtree(self._folder)
    self._folder.mkdir(exist_ok=True)
    files.write_json(manifest, self._about)
    number = 0
    while (damaged := _read_damaged(self._part(number))) is not None:
      self.damaged += damaged
      number += 1
    return number

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

  def write(
    self, number: int, table: pa.Table, damaged: list[tuple[int, str]]
  ) -> None:
    """Writes a part, and the reasons of its images without a row."""
    self.damaged += damaged
    about = {_KEY: json.dumps(damaged)}
    with _parquet(
      self._part(number), self._schema.with_metadata(about)
    ) as writer:
      writer.write_table(table.combine_chunks())

  def _tables(self, parts: int, columns: list[str] | None = None) -> Iterator:
    for number in range(parts):
      yield pq.read_table(self._part(number), columns=columns)

  def join(self, parts: int) -> int:
    """Writes the output from all parts, removes them; returns its rows."""
    about = json.dumps({**self._about, "damaged": self.damaged})
    rows = sum(
      pq.read_metadata(self._part(number)).num_rows for number in range(parts)
    )
    # Complete before it gets its name.
    whole = self._folder / self._out.name
    if self._out.suffix == ".npz":
      with files.open_atomically(whole) as file:
        self._write_npz(file, parts, rows, about)
    else:
      schema = self._schema.with_metadata({_KEY: about})
      with _parquet(whole, schema) as writer:
        for table in self._tables(parts):
          if table.num_rows:
            writer.write_table(table.replace_schema_metadata(schema.metadata))
    whole.replace(self._out)
    shutil.rmtree(self._folder)
    return rows

  def _write_npz(self, file: Any, parts: int, rows: int, about: str) -> None:
    """Writes the columns as arrays, one part in memory at a time."""
    with zipfile.ZipFile(file, "w") as archive:

      def write(
        name: str, dtype: np.dtype, shape: tuple[int, ...], arrays: Iterator
      ) -> None:
        # Without a date, so that the same rows are the same bytes.
        with archive.open(
          zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True
        ) as member:
          header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": shape,
          }
          np.lib.format.write_array_header_1_0(member, header)
          for array in arrays:
            member.write(np.ascontiguousarray(array, dtype).tobytes())

      for field in self._schema:
        name = field.name

        def arrays(
          name: str = name, of: Callable = _array
        ) -> Iterator[np.ndarray]:
          return (of(t[name]) for t in self._tables(parts, [name]))

        if pa.types.is_string(field.type):
          longest = max((a.dtype.itemsize for a in arrays(of=_text)), default=0)
          dtype = np.dtype(f"U{max(1, longest // 4)}")
          write(name, dtype, (rows,), arrays(of=_text))
        elif pa.types.is_fixed_size_list(field.type):
          columns = self._about["tokens"] if name == "tokens" else None
          shape = (rows, *(columns or (field.type.list_size,)))
          write(name, np.dtype(np.float32), shape, arrays())
        else:
          dtype = np.dtype(field.type.to_pandas_dtype())
          write(name, dtype, (rows,), arrays())
      text = np.array(about)
      write("about", text.dtype, (), iter([text]))


def _text(column: pa.ChunkedArray) -> np.ndarray:
  """Returns a column of text as an array; "" where there is none."""
  return np.array([text or "" for text in column.to_pylist()], np.str_)


def _read_damaged(path: pathlib.Path) -> list[tuple[int, str]] | None:
  """Returns the damaged images of a part; None if it is not finished."""
  try:
    found = json.loads(pq.read_schema(path).metadata[_KEY])
  except (FileNotFoundError, pa.ArrowInvalid, KeyError, ValueError):
    return None
  return [(row, reason) for row, reason in found]


def read(path: pathlib.Path) -> Embeddings:
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
          classes=tuple(arrays["class"].tolist()) if "class" in arrays else (),
          features=arrays["features"],
          about=json.loads(str(arrays["about"])),
        )
    schema = pq.read_schema(path)
    labelled = "class" in schema.names
    columns = ["name", "index", "features", *(["class"] * labelled)]
    table = pq.read_table(path, columns=columns)
    return Embeddings(
      names=tuple(table["name"].to_pylist()),
      rows=table["index"].to_numpy(),
      classes=tuple(table["class"].to_pylist()) if labelled else (),
      features=_array(table["features"]),
      about=json.loads(schema.metadata[_KEY]),
    )
  except (pa.ArrowInvalid, KeyError, TypeError, zipfile.BadZipFile) as error:
    raise ValueError(f"{problem}: {error}") from error
