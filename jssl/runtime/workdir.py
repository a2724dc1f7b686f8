"""The workdir of a run: its config and its lock."""

import contextlib
import fcntl
import json
import os
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
from jssl.runtime.paths import Path, StorePath, as_path, is_url

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


def check_workdir(workdir: str | os.PathLike, *, local: bool = False) -> None:
  """Raises ValueError unless a workdir is a folder or the URL of a bucket.

  With `local`, it must be a folder.
  """
  name = os.fspath(workdir)
  if local:
    files.check_local("--workdir", name)
  if is_url(name):
    url = str(as_path(name))
    if not re.match("gs://[^/]+/.", url):
      raise ValueError(
        f"--workdir={url}: expected a folder or gs://BUCKET/FOLDER, which are "
        "all that Orbax writes checkpoints to; URLs of other stores are for "
        "--config, --out, --weights, init_from.weights and data.data_dir"
      )
    return
  if not name or name.startswith("~"):
    raise ValueError(
      f"--workdir={name!r}: expected the path of a folder, such as "
      "runs/simclr or $HOME/runs/simclr; shells do not expand ~ in a flag"
    )
  files.check_utf8("--workdir", name)


def _config_path(workdir: str | os.PathLike) -> Path:
  check_workdir(workdir)
  return as_path(workdir) / "config.json"


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
  token = as_path(workdir) / name
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
      "as NFS or gs://BUCKET/FOLDER; process 0 wrote a file there that does "
      f"not exist for process {', '.join(missing)}"
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
) -> Path | None:
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
    as_path(workdir).mkdir(parents=True, exist_ok=True)
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
  lock of another host counts unless it is not renewed for `_STALE_SECONDS`. In
  a store the object is the lock: only one process can create it, its holder
  rewrites it, and removes it.

  Raises:
    ValueError: on every process, if another run holds the lock.
  """
  path = as_path(workdir) / name
  with contextlib.ExitStack() as stack:
    error = ""
    if distributed.is_first():
      file = None
      if not isinstance(path, StorePath):
        file = stack.enter_context(path.open("a"))
      own: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
      }
      if _acquire(path, file, own):
        stack.callback(_release, path, file, own)
        stack.enter_context(_renewed(path, own))
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


def _acquire(path: Path, file: TextIO | None, own: Mapping[str, Any]) -> bool:
  """Locks a file and writes its owner; False if another run has it.

  `file` is None for an object of a store.
  """
  has_locks = file is not None
  try:
    if file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    before = _renewal(path)
    time.sleep(_STALE_SECONDS)
    if _renewal(path) != before:
      return False
  if file:
    file.truncate(0)
    file.write(json.dumps(own))
    file.flush()
    os.fsync(file.fileno())  # Other hosts see no buffers.
  elif isinstance(path, StorePath):
    if holder:
      path.unlink(missing_ok=True)
    # It may be own: of an attempt whose answer was lost, so it was repeated.
    with contextlib.suppress(FileExistsError):
      path.create(json.dumps(own))
  if not has_locks:
    # Another host may have read the file before this one wrote it.
    time.sleep(_SETTLE_SECONDS)
  return files.read_json(path) == own


def _is_own(path: Path, own: Mapping[str, Any]) -> bool:
  holder = files.read_json(path) or {}
  return {**holder, **own} == holder


def _release(path: Path, file: TextIO | None, own: Mapping[str, Any]) -> None:
  if file:
    file.truncate(0)
    return
  with contextlib.suppress(OSError):  # It is stale later.
    if _is_own(path, own):
      path.unlink()


def _renewal(path: Path) -> Any:
  """Returns a value that changes when a lock is renewed."""
  if isinstance(path, StorePath):
    return files.read_json(path)
  return path.stat().st_mtime_ns


@contextlib.contextmanager
def _renewed(path: Path, own: Mapping[str, Any]) -> Iterator[None]:
  """Sets the time of a file again and again, in a thread."""
  ended = threading.Event()

  def renew() -> None:
    while not ended.wait(_STALE_SECONDS / 4):
      with contextlib.suppress(OSError):  # A later attempt may succeed.
        if not isinstance(path, StorePath):
          os.utime(path)
        elif _is_own(path, own):
          files.write_json(path, {**own, "renewed": time.time()})
        else:
          logging.error(
            "%s is not renewed: this process has lost it to another run (%s). "
            "Stop one of the two.",
            path,
            files.read_json(path),
          )
          return

  thread = threading.Thread(target=renew, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()
