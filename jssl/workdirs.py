"""The workdir of a run, and the config that it belongs to."""

import json
import os
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict

from jssl import hosts, storage

# What may differ when a run is taken up again: where and how it is computed,
# kept and watched, but not what is computed.
_FREE = (
  "mesh/",
  "log/",
  "checkpoint/",
  "probe/",
  "data/data_dir",
  "data/in_memory",
  "data/workers",
  "data/prefetch_batches",
  # Whoever is stopped by a damaged image sets it, and goes on from there.
  "data/skip_damaged",
)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
  if not isinstance(value, dict):
    return {prefix: value}
  return {
    path: leaf
    for key, child in value.items()
    for path, leaf in _flat(child, f"{prefix}/{key}" if prefix else key).items()
  }


def check(workdir: str | os.PathLike) -> None:
  """Raises where a workdir is an address, as of a bucket, and not a folder.

  Raises:
    ValueError: it is; a folder of that name would be made here.
  """
  # A path has lost one of the two slashes.
  if re.match(r"[a-z][a-z0-9+.-]+:/", os.fspath(workdir), re.IGNORECASE):
    raise ValueError(
      f"--workdir={workdir} is an address, not a folder: mount the bucket, as "
      "with `gcsfuse --implicit-dirs --rename-dir-limit=200000 BUCKET shared`, "
      "and use a --workdir below, as shared/simclr"
    )


def _config_path(workdir: str | os.PathLike) -> pathlib.Path:
  check(workdir)
  return pathlib.Path(workdir) / "config.json"


def load_config(workdir: str | os.PathLike) -> ConfigDict:
  """Returns the config of a run.

  Raises:
    FileNotFoundError: `workdir` is not that of a run.
    ValueError: `workdir` is not a folder.
  """
  path = _config_path(workdir)
  if not path.exists():
    raise FileNotFoundError(
      f"{path} is not there: --workdir must be that of a run, made by "
      "`python -m jssl.train --config=... --workdir=...`"
    )
  return ConfigDict(json.loads(path.read_text()))


def claim(config: ConfigDict, workdir: str | os.PathLike) -> None:
  """Writes the config into a new workdir; a used one must have the same.

  Raises:
    ValueError: the workdir belongs to another config; says what differs. Or it
      is not a folder.
  """
  path = _config_path(workdir)
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.exists():
    old = _flat(json.loads(path.read_text()))
    new = _flat(json.loads(config.to_json()))
    lines = [
      f"  {key.replace('/', '.')}: there {old.get(key)!r}, now {new.get(key)!r}"
      for key in sorted(old.keys() | new.keys())
      if old.get(key) != new.get(key) and not key.startswith(_FREE)
    ]
    if lines:
      raise ValueError(
        f"{workdir} belongs to a run of another config; choose another "
        "--workdir or take back the difference:\n" + "\n".join(lines)
      )
  if hosts.is_first():
    storage.replace(path, config.to_json(indent=2))
