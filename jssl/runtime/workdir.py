"""The workdir of a run: its config and its lock."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

import jax
from absl import logging
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

# Keys that the flag --extend may change.
_LENGTH = frozenset({"train.steps", "objective.total_steps"})

# Time for a network file system to show a new file to the other hosts.
_VISIBLE_SECONDS = 10.0

# A lock that its holder does not renew for so long is stale.
_STALE_SECONDS = 30.0

# Time for a file system without locks to show the lock of another host.
_SETTLE_SECONDS = 2.0


def check_workdir(workdir: str | os.PathLike) -> None:
  """Raises ValueError if a workdir is not the path of a folder."""
  name = os.fspath(workdir)
  # `pathlib` removes one of the two slashes.
  if re.match(r"[a-z][a-z0-9+.-]+:/", name, re.IGNORECASE):
    raise ValueError(
      f"--workdir={name} is a URL, not a folder: mount the bucket with "
      "`gcsfuse --implicit-dirs --rename-dir-limit=200000 BUCKET shared` and "
      "use a folder in it, such as --workdir=shared/simclr"
    )
  if not name or name.startswith("~"):
    raise ValueError(
      f"--workdir={name!r}: expected the path of a folder, such as "
      "runs/simclr or $HOME/runs/simclr; shells do not expand ~ in a flag"
    )
  files.check_utf8("--workdir", name)


def _config_path(workdir: str | os.PathLike) -> pathlib.Path:
  check_workdir(workdir)
  return pathlib.Path(workdir) / "config.json"


def load_config(workdir: str | os.PathLike) -> dict[str, Any]:
  """Returns the config of a run, as nested dicts.

  Raises:
    FileNotFoundError: if `workdir` has no config.
    ValueError: if `workdir` is not a path, or the config is damaged.
  """
  path = _config_path(workdir)
  if not path.exists():
    raise FileNotFoundError(
      f"{path} does not exist: --workdir must be the workdir of "
      "`python -m jssl.train --config=... --workdir=...`"
    )
  config = files.read_json(path)
  if config is None:
    raise ValueError(
      f"{path} is damaged: expected a JSON object. Restore it from a copy, or "
      "choose another --workdir"
    )
  return config


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


def check_config(
  config: Mapping[str, Any],
  workdir: str | os.PathLike,
  *,
  extend: bool = False,
) -> None:
  """Raises ValueError if a workdir is that of a run with another config.

  With `extend`, the run may become longer.
  """
  if not _config_path(workdir).exists():
    return
  old, new = (
    flatten_dict(values, sep=".")
    for values in (load_config(workdir), json.loads(json.dumps(config)))
  )
  changed = [
    key
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key) and not key.startswith(_FREE)
  ]
  is_longer = _LENGTH.issuperset(changed) and (
    new.get("train.steps", 0) > old.get("train.steps", 0)
  )
  if not changed or (extend and is_longer):
    return
  advice = "choose another --workdir or undo these changes"
  if is_longer:
    advice = f"add --extend to make it longer, {advice}"
  elif extend:
    advice = f"--extend accepts a larger train.steps only: {advice}"
  lines = [f"  {k}: was {old.get(k)!r}, now {new.get(k)!r}" for k in changed]
  raise ValueError(
    f"{workdir} belongs to a run with another config; {advice}:\n"
    + "\n".join(lines)
  )


def claim_workdir(
  config: Mapping[str, Any],
  workdir: str | os.PathLike,
  *,
  extend: bool = False,
) -> pathlib.Path | None:
  """Writes the config to a workdir, after `check_config`.

  Returns:
    On process 0, if this makes a run longer: the copy of its earlier config,
    `config_STEPS_steps.json`. None otherwise.
  """
  path, earlier = _config_path(workdir), None
  check_config(config, workdir, extend=extend)
  if distributed.is_first():
    path.parent.mkdir(parents=True, exist_ok=True)
    if extend:
      steps = load_config(workdir)["train"]["steps"]
      if steps != config["train"]["steps"]:
        earlier = path.with_name(f"config_{steps}_steps.json")
        files.write_text(earlier, path.read_text())
    files.write_text(path, json.dumps(config, indent=2))
  return earlier


@contextlib.contextmanager
def lock_workdir(
  config: Mapping[str, Any],
  workdir: str | os.PathLike,
  *,
  extend: bool = False,
) -> Iterator[Callable[[], None]]:
  """Makes and claims a workdir, and locks it against a second training.

  Yields:
    A function that keeps the claim. After an error before its first call, a
    workdir without an earlier config is free for another config, and a run
    that was to become longer has its earlier config.

  Raises:
    ValueError: on every process, if another run holds the lock, the workdir
      has another config, or is not shared by all processes.
  """
  if distributed.is_first():
    pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
  check_workdir_shared(workdir)
  with lock(workdir, "lock"):
    claimed = _config_path(workdir)
    is_new = not claimed.exists()
    earlier = claim_workdir(config, workdir, extend=extend)
    kept = threading.Event()
    try:
      yield kept.set
    except Exception:
      if not kept.is_set() and distributed.is_first():
        with contextlib.suppress(OSError):  # The first error is reported.
          if earlier:
            earlier.replace(claimed)
          elif is_new:
            claimed.unlink()
      raise


@contextlib.contextmanager
def lock(workdir: str | os.PathLike, name: str) -> Iterator[None]:
  """Locks a workdir by the file `name` in it.

  The kernel releases the lock of a process that ends. Network file systems may
  not show it to other hosts, so its holder also renews the time of the file: a
  lock of another host counts unless it is not renewed for `_STALE_SECONDS`.

  Raises:
    ValueError: on every process, if another run holds the lock.
  """
  path = pathlib.Path(workdir) / name
  with contextlib.ExitStack() as stack:
    error = ""
    if distributed.is_first():
      file = stack.enter_context(path.open("a"))
      own: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
      }
      if _acquire(path, file, own):
        stack.callback(file.truncate, 0)
        stack.enter_context(_renewed(path))
      else:
        who = "a process that has just started"
        if holder := files.read_json(path):
          who = (
            f"process {holder.get('pid')} on {holder.get('host')}, started "
            f"{holder.get('started')}"
          )
        error = (
          f"--workdir={workdir} is in use by {who} (see {name}): wait for it "
          "to end, stop it, or choose another --workdir"
        )
    if error := distributed.broadcast_from_first(error):
      raise ValueError(error)
    yield


def _acquire(path: pathlib.Path, file: TextIO, own: Mapping[str, Any]) -> bool:
  """Locks a file and writes its owner; False if another run has it."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    has_locks = True
  except BlockingIOError:
    return False
  except OSError:  # The file system has no locks.
    has_locks = False
  holder = files.read_json(path)
  if holder and not (has_locks and holder.get("host") == own["host"]):
    logging.warning(
      "%s is the lock of process %s on %s; checking for %g s if it is renewed.",
      path,
      holder.get("pid"),
      holder.get("host"),
      _STALE_SECONDS,
    )
    before = path.stat().st_mtime_ns
    time.sleep(_STALE_SECONDS)
    if path.stat().st_mtime_ns != before:
      return False
  file.truncate(0)
  file.write(json.dumps(own))
  file.flush()
  os.fsync(file.fileno())  # Other hosts see no buffers.
  if not has_locks:
    # Another host may have read the file before this one wrote it.
    time.sleep(_SETTLE_SECONDS)
  return files.read_json(path) == own


@contextlib.contextmanager
def _renewed(path: pathlib.Path) -> Iterator[None]:
  """Sets the time of a file again and again, in a thread."""
  ended = threading.Event()

  def renew() -> None:
    while not ended.wait(_STALE_SECONDS / 4):
      with contextlib.suppress(OSError):  # A later attempt may succeed.
        os.utime(path)

  thread = threading.Thread(target=renew, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()
