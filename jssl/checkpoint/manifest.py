"""What a checkpoint says of itself, so that damage to it is seen.

Orbax restores a flipped byte without a word. A manifest has the SHA-256 of
every file, and name, dtype and shape of every leaf. It is written last: a
checkpoint that has one was finished.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from jssl import tree
from jssl.runtime import files
from jssl.typing import PyTree

NAME = "manifest.json"

Leaves = dict[str, list]


class CheckpointError(RuntimeError):
  """A checkpoint can't be read, or can't be used here."""


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a file that is there whole or not at all."""
  files.replace(path, json.dumps(value, indent=1, sort_keys=True))


def _digests(directory: pathlib.Path) -> dict[str, str]:
  """Returns the SHA-256 of every file below a directory, by relative path."""
  digests = {}
  for path in sorted(directory.rglob("*")):
    if path.is_file() and path.name not in (NAME, NAME + ".tmp"):
      with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
      digests[path.relative_to(directory).as_posix()] = digest
  return digests


def describe(items: PyTree) -> Leaves:
  """Returns `{path name: [dtype, shape]}`."""
  return {
    tree.path_name(path): [str(leaf.dtype), list(leaf.shape)]
    for path, leaf in jax.tree_util.tree_leaves_with_path(items)
  }


def _read(directory: pathlib.Path) -> dict[str, Any]:
  return json.loads((directory / NAME).read_text())


def leaves(directory: pathlib.Path) -> Leaves:
  """Returns what a checkpoint holds: `{path name: [dtype, shape]}`."""
  return _read(directory)["leaves"]


def write(directory: pathlib.Path, leaves: Leaves) -> None:
  """Finishes a checkpoint whose files are all there."""
  write_json(directory / NAME, {"leaves": leaves, "files": _digests(directory)})


def check_files(directory: pathlib.Path) -> None:
  """Raises CheckpointError naming the files that aren't as they were saved."""
  try:
    expected = _read(directory)["files"]
  except (OSError, ValueError, KeyError) as error:
    raise CheckpointError(f"{directory}: no readable manifest") from error
  found = _digests(directory)
  damaged = [n for n, digest in expected.items() if found.get(n) != digest]
  if damaged:
    raise CheckpointError(
      f"{directory}: {len(damaged)} of {len(expected)} files differ from what "
      f"was saved, {damaged[0]} the first"
    )


def check_leaves(directory: pathlib.Path, items: Mapping[str, PyTree]) -> None:
  """Raises CheckpointError naming the leaves that differ from `items`."""
  saved = leaves(directory)
  wanted = describe(items)
  lines = [f"missing there: {n} {wanted[n]}" for n in wanted.keys() - saved]
  lines += [
    f"saved {saved[n]}, wanted {wanted[n]}: {n}"
    for n in wanted.keys() & saved
    if saved[n] != wanted[n]
  ]
  names = tuple(f"{name}/" for name in items)
  lines += [
    f"not wanted here: {n} {saved[n]}"
    for n in saved.keys() - wanted.keys()
    if n.startswith(names)
  ]
  if lines:
    shown = "\n  ".join(sorted(lines)[:8])
    raise CheckpointError(
      f"{directory} holds other arrays than this config makes "
      f"({len(lines)} differ; is it the same model, objective and optim?):"
      f"\n  {shown}"
    )
