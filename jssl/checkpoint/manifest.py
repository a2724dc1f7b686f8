"""The manifest of a checkpoint, which detects damaged and unfinished ones.

Orbax restores a flipped byte without an error. A manifest lists the SHA-256 of
every file and the name, dtype and shape of every leaf. It is written last, so a
checkpoint without a manifest is unfinished.
"""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from jssl import tree
from jssl.runtime import files
from jssl.typing import PyTree

NAME = "manifest.json"

Leaves = dict[str, list]
"""`{path name: [dtype, shape]}`."""


class CheckpointError(RuntimeError):
  """A checkpoint is missing, damaged, or does not fit the config."""


def _digests(directory: pathlib.Path) -> dict[str, str]:
  """Returns the SHA-256 of every file below a directory, by relative path."""
  digests = {}
  for path in sorted(directory.rglob("*")):
    if path.is_file() and path.name != NAME:
      with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
      digests[path.relative_to(directory).as_posix()] = digest
  return digests


def describe(items: PyTree) -> Leaves:
  """Returns the dtypes and shapes of a tree of arrays."""
  return {
    tree.path_name(path): [str(leaf.dtype), list(leaf.shape)]
    for path, leaf in jax.tree_util.tree_leaves_with_path(items)
  }


def _read(
  directory: pathlib.Path, key: str, default: Any = None
) -> dict[str, Any]:
  value = (files.read_json(directory / NAME) or {}).get(key, default)
  if not isinstance(value, dict) or (default is None and not value):
    raise CheckpointError(f"{directory}: no readable manifest")
  return value


def leaves(directory: pathlib.Path) -> Leaves:
  """Returns the dtypes and shapes of a checkpoint's leaves."""
  saved = _read(directory, "leaves")
  if not all(isinstance(v, list) and len(v) == 2 for v in saved.values()):
    raise CheckpointError(f"{directory}: no readable manifest")
  return saved


def facts(directory: pathlib.Path) -> dict[str, Any]:
  """Returns the facts of `write`; {} if an earlier version wrote none."""
  return _read(directory, "facts", {})


def write(
  directory: pathlib.Path, leaves: Leaves, facts: Mapping[str, Any]
) -> None:
  """Finishes a checkpoint; its other files must be complete.

  Args:
    directory: folder of the checkpoint.
    leaves: see `describe`.
    facts: JSON values of what must not change when the run is resumed.
  """
  content = {
    "leaves": leaves,
    "facts": dict(facts),
    "files": _digests(directory),
  }
  files.write_json(directory / NAME, content)


def check_files(directory: pathlib.Path) -> None:
  """Raises CheckpointError if a checkpoint is unfinished or damaged."""
  expected, found = _read(directory, "files"), _digests(directory)
  damaged = [n for n, digest in expected.items() if found.get(n) != digest]
  if damaged:
    raise CheckpointError(
      f"{directory}: {len(damaged)} of {len(expected)} files are damaged or "
      f"missing, such as {damaged[0]}"
    )


def check_leaves(
  directory: pathlib.Path, items: Mapping[str, PyTree], *, partial: bool = False
) -> None:
  """Raises CheckpointError unless the leaves of `items` are those saved.

  With `partial`, `items` may lack saved leaves.
  """
  saved, expected = leaves(directory), describe(items)
  prefixes = tuple(expected if partial else (f"{name}/" for name in items))
  differences = [
    f"{name}: saved {saved.get(name, 'nothing')}, expected "
    f"{expected.get(name, 'nothing')}"
    for name in sorted(saved.keys() | expected.keys())
    if name.startswith(prefixes) and saved.get(name) != expected.get(name)
  ]
  if differences:
    shown = "\n  ".join(differences[:8])
    raise CheckpointError(
      f"{directory} does not match this config in {len(differences)} arrays; "
      f"use the model, objective, head and optim of its run:\n  {shown}"
    )


def check_facts(directory: pathlib.Path, current: Mapping[str, Any]) -> None:
  """Raises CheckpointError if a checkpoint was saved with other facts."""
  saved = facts(directory)
  differences = [
    f"  {name}: was {saved[name]!r}, now {value!r}"
    for name, value in current.items()
    if saved.get(name, value) != value
  ]
  if differences:
    raise CheckpointError(
      f"{directory} was saved with other images or settings of JAX, so the run "
      "cannot continue as it began; undo these changes or choose another "
      "--workdir:\n" + "\n".join(differences)
    )
