"""The manifest of a checkpoint, which detects damaged and unfinished ones.

Orbax restores a flipped byte without an error. A manifest lists the SHA-256 of
every file and the name, dtype and shape of every leaf. It is written last, so a
checkpoint without a manifest is unfinished. Of an object in a bucket it lists
the MD5 that Google Cloud Storage has computed, and nothing is read back.
"""

import base64
import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax

from jssl import tree
from jssl.runtime import files
from jssl.runtime.paths import Path, StorePath
from jssl.typing import PyTree

NAME = "manifest.json"

Leaves = dict[str, list]
"""`{path name: [dtype, shape]}`."""

_MD5 = "md5:"


class CheckpointError(RuntimeError):
  """A checkpoint is missing, damaged, or does not fit the config."""


def _digests(
  directory: Path, expected: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
  """Returns a digest of every file below a directory, by relative path.

  It is of the kind of the expected one: "md5:..." or a SHA-256.
  """
  if isinstance(directory, StorePath):
    known = {k: v.get("md5Hash") for k, v in directory.objects().items()}
  else:
    known = {
      path.relative_to(directory).as_posix(): None
      for path in sorted(directory.rglob("*"))
      if path.is_file()
    }
  digests = {}
  for name, md5 in known.items():
    path = directory / name
    if path.name == NAME:
      continue
    if not expected.get(name, _MD5 if md5 else "").startswith(_MD5):
      with path.open("rb") as file:
        digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
      continue
    if md5 is None:  # A copy of the checkpoint is elsewhere than it was saved.
      with path.open("rb") as file:
        digest = hashlib.file_digest(file, _new_md5).digest()
      md5 = base64.b64encode(digest).decode()
    digests[name] = f"{_MD5}{md5}"
  return digests


def _new_md5() -> Any:
  return hashlib.md5(usedforsecurity=False)


def describe(items: PyTree) -> Leaves:
  """Returns the dtypes and shapes of a tree of arrays."""
  return {
    tree.path_name(path): [str(leaf.dtype), list(leaf.shape)]
    for path, leaf in jax.tree_util.tree_leaves_with_path(items)
  }


def _read(directory: Path, key: str, default: Any = None) -> dict[str, Any]:
  value = (files.read_json(directory / NAME) or {}).get(key, default)
  if not isinstance(value, dict) or (default is None and not value):
    raise CheckpointError(f"{directory}: no readable manifest")
  return value


def leaves(directory: Path) -> Leaves:
  """Returns the dtypes and shapes of a checkpoint's leaves."""
  saved = _read(directory, "leaves")
  if not all(isinstance(v, list) and len(v) == 2 for v in saved.values()):
    raise CheckpointError(f"{directory}: no readable manifest")
  return saved


def facts(directory: Path) -> dict[str, Any]:
  """Returns the facts of `write`; {} if an earlier version wrote none."""
  return _read(directory, "facts", {})


def write(directory: Path, leaves: Leaves, facts: Mapping[str, Any]) -> None:
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


def check_files(directory: Path) -> None:
  """Raises CheckpointError if a checkpoint is unfinished or damaged."""
  expected = _read(directory, "files")
  found = _digests(directory, expected)
  damaged = [n for n, digest in expected.items() if found.get(n) != digest]
  if damaged:
    raise CheckpointError(
      f"{directory}: {len(damaged)} of {len(expected)} files are damaged or "
      f"missing, such as {damaged[0]}"
    )


def check_leaves(
  directory: Path, items: Mapping[str, PyTree], *, partial: bool = False
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


def check_facts(directory: Path, current: Mapping[str, Any]) -> None:
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
