"""Lists the images of a folder in the tables of a manifest, in order.

Which files are images of the set, their labels and splits, and their places.
"""

import csv
import hashlib
import itertools
import os
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from jssl.data.layout import SUFFIXES, Group, Layout, Path, printable

# Files that are listed before they are in the table.
_BATCH = 1000
_HOLD_OUT = """
update files set split = 'test' where path in (
  select path from (
    select path, count(*) over (partition by label) as number,
      row_number() over (partition by label order by sha256(path)) as place
    from files where split = 'train'
  ) where place <= held_out(number)
)"""


def _sort_key(split: str, path: bytes) -> bytes:
  """Returns the hash by which TFDS orders the records of a split."""
  return hashlib.md5(split.encode() + path, usedforsecurity=False).digest()


def _sha256(path: bytes) -> bytes:
  return hashlib.sha256(path).digest()


def _held_out(images: int) -> int:
  """Returns how many images of a class become `test`."""
  return max(1, round(images / 10))


def _value(db: sqlite3.Connection, query: str, *values: object) -> Any:
  return db.execute(query, values).fetchone()[0]


def read_labels(path: Path) -> Iterator[tuple[int, str, str]]:
  """Yields line number, file name and label of each row of a CSV file.

  Raises:
    ValueError: if a row is not a file name and a label.
  """
  with path.open(
    newline="", encoding="utf-8-sig", errors="surrogateescape"
  ) as file:
    rows = csv.reader(file)
    try:
      for row in rows:
        line = rows.line_num
        # The first line may have the names of the columns.
        if not row or (line == 1 and not row[0].lower().endswith(SUFFIXES)):
          continue
        if len(row) != 2 or not all(row):
          raise ValueError(
            f"--labels={path}: line {line} has {row}; expected a file name and "
            "a label, as in a/b.png,cat"
          )
        yield line, os.path.normpath(row[0]), row[1]
    except csv.Error as error:
      raise ValueError(
        f"--labels={path}: line {rows.line_num}: {error}; expected CSV"
      ) from error


def _label(db: sqlite3.Connection, csv_file: Path) -> None:
  """Labels the files by a CSV file of names and labels."""
  for line, name, label in read_labels(csv_file):
    path = os.fsencode(name)
    new = "insert or ignore into labels values (?, ?)"
    if db.execute(new, (path, os.fsencode(label))).rowcount:
      continue
    known = _value(db, "select label from labels where path = ?", path)
    if label != (before := os.fsdecode(known)):
      raise ValueError(
        f"--labels={csv_file}: line {line} gives {printable(name)} the label "
        f"{label!r}, an earlier line {before!r}; expected one label"
      )
    repeated = f"of repeated lines in {csv_file.name}"
    db.execute("insert into passed_over values (?, ?)", (path, repeated))
  first = _value(db, "select min(path) from files")
  named = _value(db, "select min(path) from labels")
  db.execute(
    "insert into passed_over select path, ? from labels "
    "where path not in (select path from files)",
    (f"in {csv_file.name}, but no images of the source",),
  )
  db.execute(
    "insert into passed_over select path, ? from files "
    "where path not in (select path from labels)",
    (f"without a line in {csv_file.name}",),
  )
  db.execute("delete from files where path not in (select path from labels)")
  db.execute(
    "update files set label = "
    "(select label from labels where labels.path = files.path)"
  )
  if first and not _value(db, "select count(*) from files"):
    example = printable(os.fsdecode(named or b"no line"))
    raise ValueError(
      f"--labels={csv_file} names no image of the source: expected names "
      f"such as {printable(os.fsdecode(first))}, got {example}"
    )


def list_source(
  db: sqlite3.Connection, layout: Layout, *, labels: Path | None, omit: Path
) -> list[str]:
  """Lists the files of a source with splits and labels; returns the classes.

  Args:
    db: the tables `files`, `labels` and `passed_over`, which are written anew.
    layout: the source.
    labels: CSV file of labels; None for those of the layout.
    omit: folder that is not looked into.

  Raises:
    ValueError: if the source is no set, see `Layout.check`, or labels do not
      fit.
  """
  db.execute("delete from files")
  db.execute("delete from labels")
  db.execute("delete from passed_over")
  start = len(os.path.join(layout.source, ""))
  files = layout.files(omit=omit)
  while batch := list(itertools.islice(files, _BATCH)):
    db.executemany(
      "insert into passed_over values (?, ?)",
      [(os.fsencode(f.path[start:]), f.reason) for f in batch if f.reason],
    )
    db.executemany(
      "insert into files values (?, ?, ?, ?, ?)",
      [
        (os.fsencode(path[start:]), split, os.fsencode(label), *about)
        for path, reason, split, label, *about in batch
        if not reason
      ],
    )
  if labels:
    _label(db, labels)
  groups: dict[str, dict[str, Group]] = {}
  for split, label, number, path in db.execute(
    "select split, label, count(*), min(path) from files group by 1, 2"
  ):
    group = Group(number, os.fsdecode(path))
    groups.setdefault(split, {})[os.fsdecode(label)] = group
  layout.check(groups)
  if "test" not in groups:
    db.create_function("sha256", 1, _sha256, deterministic=True)
    db.create_function("held_out", 1, _held_out, deterministic=True)
    db.execute(_HOLD_OUT)
  return sorted(groups["train"].keys() - {""})


def place(
  db: sqlite3.Connection,
  classes: Sequence[str],
  *,
  most_images: int,
  most_bytes: int,
) -> None:
  """Puts the listed images in order, and in parts without records.

  Args:
    db: the table `files`, and the tables `images` and `parts`, which are
      written anew.
    classes: names of the classes in label order.
    most_images: images of a part.
    most_bytes: bytes of the files of a part.
  """
  db.execute("delete from images")
  db.execute("delete from parts")
  db.create_function("sort_key", 2, _sort_key, deterministic=True)
  numbers = {os.fsencode(name): i for i, name in enumerate(classes)}
  parts: list[tuple[int, str]] = []
  ordered = db.execute(
    "select split, path, label, size from files "
    "order by split, sort_key(split, path)"
  )

  def placed() -> Iterator[tuple[int, bytes, int]]:
    images = size = 0
    for split, path, label, size_of_file in ordered:
      images, size = images + 1, size + size_of_file
      full = images > most_images or size > most_bytes
      if not parts or full or split != parts[-1][1]:
        images, size = 1, size_of_file
        parts.append((len(parts), split))
      yield parts[-1][0], path, numbers.get(label, -1)

  db.executemany(
    "insert into images (part, path, label) values (?, ?, ?)", placed()
  )
  db.executemany("insert into parts values (?, ?, null)", parts)
