"""Which images of a folder have records, as `listing` has put them in order.

A manifest is a folder on disk: a table in SQLite, so that memory does not grow
with the number of images, and files of encoded records. It outlives a process
that is killed, and the next one continues with it.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from jssl.data import listing
from jssl.data.encode import Kind, describe_mask
from jssl.data.layout import (
  MOST_LISTED,
  Layout,
  Path,
  file_name,
  printable,
)
from jssl.runtime.files import open_atomically

# Images and bytes of the files of a part, which is encoded and kept as a whole.
PART_IMAGES = 1000
_PART_BYTES = 2**26
_CACHE_KIB = 2**15
# Files that a summary names for each reason.
_EXAMPLES = 3
# Reason of files that cannot be opened, which is no property of their bytes.
UNREADABLE = "unreadable"
_TABLES = """
create table if not exists files (
  path blob primary key, split text, label blob, size int, mtime_ns int
) without rowid;
create table if not exists labels (path blob primary key, label blob)
  without rowid;
create table if not exists passed_over (path blob, reason text);
create table if not exists parts (part integer primary key, split, file text);
create table if not exists images (
  place integer primary key, part int, path blob, label int, bytes int,
  channels int, dtype text, width int, height int, transparent int,
  rounded int, problem text, damaged int, mask text
);
create index if not exists images_of_part on images (part);
create table if not exists listed (fingerprint text);
-- What follows in parentheses differs between files.
create view if not exists all_passed_over as
  select *, substr(reason, 1, instr(reason || ' (', ' (') - 1) as kind from (
    select path, reason from passed_over
    union all select path, problem from images where problem != ''
  );
"""


class Stored(NamedTuple):
  """The record of an image in the file of its part.

  Attributes:
    bytes: size of the record; 0 if there is none.
    channels: number of channels.
    dtype: dtype of the pixels.
    width: width of the whole image in pixels.
    height: its height in pixels.
    transparent: True if some pixels of the original may be transparent.
    rounded: True if the values of the original are more precise.
    problem: why there is no record; "" if there is one.
    damaged: True if --skip_damaged omits the file.
    mask: size and time of change of the mask; "" without one.
  """

  bytes: int = 0
  channels: int = 0
  dtype: str = ""
  width: int = 0
  height: int = 0
  transparent: bool = False
  rounded: bool = False
  problem: str = ""
  damaged: bool = False
  mask: str = ""

  def kind(self) -> Kind:
    """Returns the kind of the image, if there is a record."""
    return Kind(self.channels, np.dtype(self.dtype))


class Entry(NamedTuple):
  """An image to encode.

  Attributes:
    place: place in the order of all images.
    path: path in the source.
    label: number of its class; -1 without one.
    stored: its record so far.
  """

  place: int
  path: str
  label: int
  stored: Stored


class Part(NamedTuple):
  """Consecutive images of a split, and the file of their records so far."""

  number: int
  file: str | None
  entries: list[Entry]


class Manifest:
  """The images of a folder; see the top of this module.

  Attributes:
    folder: folder of the table and of the records.
    classes: names of the classes in label order; empty without labels.

  Raises:
    ValueError: if another process uses the folder.
  """

  def __init__(self, folder: Path):
    self.folder = folder
    self.classes: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    self._db = sqlite3.connect(
      folder / "manifest.sqlite", timeout=0, isolation_level=None
    )
    try:
      self._db.executescript(f"""
        pragma cache_size = -{_CACHE_KIB};
        pragma synchronous = off;
        pragma locking_mode = exclusive;
        begin exclusive; {_TABLES} commit;""")
    except sqlite3.DatabaseError as error:
      self._db.close()
      if "locked" in str(error):
        raise ValueError(
          f"another process prepares this set and uses {folder}; wait for it"
        ) from None
      raise OSError(f"{error}; delete {folder}") from error

  def __enter__(self) -> "Manifest":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    keep = False
    if error is not None:
      # Without records there is nothing to continue with.
      with contextlib.suppress(sqlite3.Error):
        keep = self.num_encoded() > 0
    self._db.close()
    if not keep:
      shutil.rmtree(self.folder)
    if isinstance(error, sqlite3.Error):
      raise OSError(f"{self.folder}: {error}") from error

  def _rows(self, query: str, *values: object) -> sqlite3.Cursor:
    return self._db.execute(query, values)

  def _value(self, query: str, *values: object) -> Any:
    return self._rows(query, *values).fetchone()[0]

  def scan(
    self,
    layout: Layout,
    *,
    labels: Path | None,
    settings: object,
    masks: Path | None = None,
  ) -> None:
    """Lists the source; drops the records if it or the settings have changed.

    Args:
      layout: the source.
      labels: CSV file of labels; None for those of the layout.
      settings: what the records depend on beside the source and the masks.
      masks: folder of the masks; None without.

    Raises:
      ValueError: if the source is no set, see `Layout.check`, or labels do not
        fit.
    """
    self._rows("begin")
    self.classes = listing.list_source(
      self._db, layout, labels=labels, omit=self.folder
    )
    fingerprint = hashlib.sha256(repr((self.classes, settings)).encode())
    for row in self._rows("select * from files"):
      fingerprint.update(repr(row).encode())
    found = fingerprint.hexdigest()
    before = self._rows("select fingerprint from listed").fetchone()
    changed = before != (found,)
    if changed:
      listing.place(
        *(self._db, self.classes),
        most_images=PART_IMAGES,
        most_bytes=_PART_BYTES,
      )
      self._rows("delete from listed")
      self._rows("insert into listed values (?)", found)
    self._db.create_function(
      "describe_mask", 1, lambda path: describe_mask(masks, os.fsdecode(path))
    )
    # Masks and permissions, for example, may have been repaired.
    self._rows(
      "update parts set file = null where part in (select part from images "
      "where problem != '' and not damaged or problem like ? "
      "or problem = '' and mask != describe_mask(path))",
      f"{UNREADABLE}%",
    )
    self._rows("commit")
    if changed and before:
      logging.warning(
        "Files or flags have changed since the last command, which was "
        "interrupted; all images are encoded again."
      )
      for path in self.folder.glob("*.records"):
        path.unlink()

  def num_images(self) -> int:
    """Returns the number of images, with and without a record."""
    return self._value("select count(*) from images")

  def num_encoded(self) -> int:
    """Returns the number of images that have a record or a problem."""
    return self._value(
      "select count(*) from images join parts using (part) "
      "where file is not null"
    )

  def pending(self, kind: Kind | None) -> Iterator[Part]:
    """Yields the parts without records, or with pixels of another kind.

    Args:
      kind: kind of the images of the set; None if it is not known.
    """
    parts = self._rows(
      "select part, file from parts where file is null or part in (select part "
      "from images where bytes > 0 and (channels, dtype) != (?, ?)) "
      "order by part",
      *((kind.channels, str(kind.dtype)) if kind else (None, None)),
    )
    for number, file in parts.fetchall():
      entries = [
        Entry(
          *(place, os.fsdecode(path), label),
          Stored(*stored) if file else Stored(),
        )
        for place, path, label, *stored in self._rows(
          "select place, path, label, bytes, channels, dtype, width, height, "
          "transparent, rounded, problem, damaged, mask from images "
          "where part = ? order by place",
          number,
        )
      ]
      yield Part(number, file, entries)

  def finish(self, part: Part, file: str, stored: list[Stored]) -> None:
    """Notes the records of a part, which are in a file of `folder`."""
    self._rows("begin")
    self._db.executemany(
      "update images set bytes = ?, channels = ?, dtype = ?, width = ?, "
      "height = ?, transparent = ?, rounded = ?, problem = ?, damaged = ?, "
      "mask = ? where place = ?",
      [
        (*one, entry.place)
        for one, entry in zip(stored, part.entries, strict=True)
      ],
    )
    self._rows("update parts set file = ? where part = ?", file, part.number)
    self._rows("commit")
    if part.file and part.file != file:
      (self.folder / part.file).unlink()

  def kinds(self) -> set[Kind]:
    """Returns the kinds of the images with records."""
    kinds = "select distinct channels, dtype from images where bytes > 0"
    return {
      Kind(number, np.dtype(dtype)) for number, dtype in self._rows(kinds)
    }

  def image_size(self) -> tuple[int, int] | None:
    """Returns (width, height) if it is the same for all records, or None."""
    sizes = self._rows(
      "select distinct width, height from images where bytes > 0 limit 2"
    ).fetchall()
    return sizes[0] if len(sizes) == 1 else None

  def num_transparent(self) -> int:
    """Returns the number of images that may have transparent pixels."""
    return self._value("select count(*) from images where transparent")

  def num_rounded(self) -> int:
    """Returns the number of images whose records are less precise."""
    return self._value("select count(*) from images where rounded")

  def problems(self, *, damage: bool) -> tuple[int, list[str]]:
    """Returns the number of images without a record, and lines of the first.

    Args:
      damage: True to include damaged files.
    """
    found = "from images where problem != '' and (not damaged or ?)"
    rows = self._rows(
      f"select path, problem {found} order by path limit ?", damage, MOST_LISTED
    )
    lines = [f"{printable(os.fsdecode(path))}: {why}" for path, why in rows]
    return self._value(f"select count(*) {found}", damage), lines

  def splits(self) -> dict[str, tuple[int, int]]:
    """Returns the number of records and of their bytes, by split."""
    rows = self._rows(
      "select split, sum(bytes > 0), sum(bytes) from images "
      "join parts using (part) group by split"
    )
    found = {split: (number, size) for split, number, size in rows}
    return {s: found[s] for s in ("train", "val", "test") if s in found}

  def counts(self) -> dict[str, dict[str, int]]:
    """Returns the number of records, by class and split."""
    counts: dict[str, dict[str, int]] = {}
    for label, split, number in self._rows(
      "select label, split, sum(bytes > 0) from images "
      "join parts using (part) group by 1, 2"
    ):
      name = self.classes[label] if self.classes else ""
      counts.setdefault(name, {})[split] = number
    return counts

  def records(self, split: str) -> Iterator[bytes]:
    """Yields the records of a split in order."""
    parts = self._rows(
      "select part, file from parts where split = ? order by part", split
    )
    for part, name in parts.fetchall():
      sizes = self._rows(
        "select bytes from images where part = ? and bytes > 0 order by place",
        part,
      )
      with (self.folder / name).open("rb") as file:
        for (size,) in sizes.fetchall():
          record = file.read(size)
          if len(record) < size:
            raise OSError(f"{file.name} is truncated; delete {self.folder}")
          yield record

  def write_passed_over(self, path: Path) -> None:
    """Writes the files that are passed over as JSON lines, by reason."""
    rows = self._rows("select path, reason from all_passed_over order by 2, 1")
    with open_atomically(path) as out:
      for name, reason in rows:
        line = {"file": file_name(os.fsdecode(name)), "reason": reason}
        out.write(json.dumps(line).encode() + b"\n")

  def describe_passed_over(self) -> list[str]:
    """Returns a line for each of the first reasons, with the first files."""
    lines = []
    reasons = self._value("select count(distinct kind) from all_passed_over")
    for kind, number in self._rows(
      "select kind, count(*) from all_passed_over "
      "group by 1 order by 2 desc, 1 limit ?",
      MOST_LISTED,
    ).fetchall():
      names = self._rows(
        "select path from all_passed_over where kind = ? order by 1 limit ?",
        *(kind, _EXAMPLES),
      )
      examples = [printable(os.fsdecode(name)) for (name,) in names]
      rest = ", ..." if number > len(examples) else ""
      lines.append(f"{number:,} {kind}: {', '.join(examples)}{rest}")
    if more := reasons - len(lines):
      lines.append(f"{more:,} more reasons")
    return lines
