"""The workdir of a run, and its config."""

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
from flax.traverse_util import flatten_dict

from jssl.runtime import distributed, files

# Prefixes of keys that may change when a run is resumed: they do not change
# the result of the training.
_FREE = (
  *("mesh.", "log.", "checkpoint.", "probe."),
  *("data.data_dir", "data.in_memory", "data.workers"),
  "data.prefetch_batches",
  # To resume a run that a damaged image has stopped.
  "data.skip_damaged",
)

# Time for a network file system to show a new file to the other hosts.
_VISIBLE_SECONDS = 10.0


def check_workdir(workdir: str | os.PathLike) -> None:
  """Checks that a workdir is a folder, not a URL.

  Raises:
    ValueError: if it is a URL, such as that of a bucket.
  """
  # `pathlib` removes one of the two slashes.
  if re.match(r"[a-z][a-z0-9+.-]+:/", os.fspath(workdir), re.IGNORECASE):
    raise ValueError(
      f"--workdir={workdir} is a URL, not a folder: mount the bucket with "
      "`gcsfuse --implicit-dirs --rename-dir-limit=200000 BUCKET shared` and "
      "use a folder in it, such as --workdir=shared/simclr"
    )


def _config_path(workdir: str | os.PathLike) -> pathlib.Path:
  check_workdir(workdir)
  return pathlib.Path(workdir) / "config.json"


def load_config(workdir: str | os.PathLike) -> dict[str, Any]:
  """Returns the config of a run, as nested dicts.

  Raises:
    FileNotFoundError: if `workdir` has no config.
    ValueError: if `workdir` is a URL.
  """
  path = _config_path(workdir)
  if not path.exists():
    raise FileNotFoundError(
      f"{path} does not exist: --workdir must be the workdir of "
      "`python -m jssl.train --config=... --workdir=...`"
    )
  return json.loads(path.read_text())


def check_workdir_shared(workdir: str | os.PathLike) -> None:
  """Checks that all processes see the same folder.

  Args:
    workdir: a folder that exists on process 0.

  Raises:
    ValueError: on every process, with the processes that do not see it.
  """
  if jax.process_count() == 1:
    return
  # A new name each time: file systems cache that a file does not exist.
  name = distributed.broadcast_from_first(f".shared-{uuid.uuid4().hex}")
  token = pathlib.Path(workdir) / name
  if distributed.is_first():
    token.touch()
  distributed.barrier(name)
  deadline = time.monotonic() + _VISIBLE_SECONDS
  while not (visible := token.exists()) and time.monotonic() < deadline:
    time.sleep(0.2)
  hosts = distributed.all_gather_text("" if visible else socket.gethostname())
  if distributed.is_first():
    token.unlink()
  missing = [f"{i} (on {host})" for i, host in enumerate(hosts) if host]
  if missing:
    raise ValueError(
      f"--workdir={workdir} must be one folder that all processes share, such "
      "as a mounted bucket or NFS; process 0 wrote a file there that does not "
      f"exist for process {', '.join(missing)}"
    )


def claim_workdir(
  config: Mapping[str, Any], workdir: str | os.PathLike
) -> None:
  """Writes the config to a new workdir, or compares it with that of a used one.

  Raises:
    ValueError: if the workdir has another config, is a URL, or is not shared by
      all processes.
  """
  path = _config_path(workdir)
  if distributed.is_first():
    path.parent.mkdir(parents=True, exist_ok=True)
  check_workdir_shared(workdir)
  if path.exists():
    old, new = (
      flatten_dict(json.loads(text), sep=".")
      for text in (path.read_text(), json.dumps(config))
    )
    lines = [
      f"  {key}: was {old.get(key)!r}, now {new.get(key)!r}"
      for key in sorted(old.keys() | new.keys())
      if old.get(key) != new.get(key) and not key.startswith(_FREE)
    ]
    if lines:
      raise ValueError(
        f"{workdir} belongs to a run with another config; choose another "
        "--workdir or undo these changes:\n" + "\n".join(lines)
      )
  if distributed.is_first():
    files.write_text(path, json.dumps(config, indent=2))
