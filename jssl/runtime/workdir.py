"""The workdir of a run, and the config that it belongs to."""

import json
import os
import pathlib
import re
import socket
import time
import uuid
from collections.abc import Mapping
from typing import Any

import jax

from jssl.runtime import distributed, files

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

# In which a file that one process wrote shows to the others.
_SHOWS_SECONDS = 10.0


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
  if not isinstance(value, dict):
    return {prefix: value}
  return {
    path: leaf
    for key, child in value.items()
    for path, leaf in _flat(child, f"{prefix}/{key}" if prefix else key).items()
  }


def check_workdir(workdir: str | os.PathLike) -> None:
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
  check_workdir(workdir)
  return pathlib.Path(workdir) / "config.json"


def load_config(workdir: str | os.PathLike) -> dict[str, Any]:
  """Returns the config of a run, as nested dicts.

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
  return json.loads(path.read_text())


def check_workdir_shared(workdir: str | os.PathLike) -> None:
  """Raises where processes have workdirs of their own, of the same name.

  Each would look for its own checkpoints, and write a part of them.

  Args:
    workdir: that is there, where the first process sees it.

  Raises:
    ValueError: on every process; says which don't see what the first writes.
  """
  if jax.process_count() == 1:
    return
  # A name that nobody can have asked for before, and remember as missing.
  name = distributed.broadcast_from_first(f".shared-{uuid.uuid4().hex}")
  token = pathlib.Path(workdir) / name
  if distributed.is_first():
    token.touch()
  # It is there, not only on its way.
  distributed.barrier(name)
  deadline = time.monotonic() + _SHOWS_SECONDS
  while not (sees := token.exists()) and time.monotonic() < deadline:
    time.sleep(0.2)
  blind = {
    index: host
    for index, host in enumerate(
      distributed.all_gather_text("" if sees else socket.gethostname())
    )
    if host
  }
  if distributed.is_first():
    token.unlink()
  if blind:
    named = ", ".join(f"{index} (on {host})" for index, host in blind.items())
    raise ValueError(
      f"--workdir={workdir} must be one folder that all processes share, on a "
      f"mounted bucket or NFS; what process 0 writes there isn't seen by "
      f"process {named} of {jax.process_count()}. Is it mounted there?"
    )


def claim_workdir(
  config: Mapping[str, Any], workdir: str | os.PathLike
) -> None:
  """Writes the config into a new workdir; a used one must have the same.

  Raises:
    ValueError: the workdir belongs to another config; says what differs. Or it
      is not a folder, or not one that all processes share.
  """
  path = _config_path(workdir)
  if distributed.is_first():
    path.parent.mkdir(parents=True, exist_ok=True)
  check_workdir_shared(workdir)
  if path.exists():
    old = _flat(json.loads(path.read_text()))
    new = _flat(json.loads(json.dumps(config)))
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
  if distributed.is_first():
    files.write_text(path, json.dumps(config, indent=2))
