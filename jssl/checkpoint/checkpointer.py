"""Checkpoints: the only importer of Orbax.

A checkpoint is `workdir/checkpoints/<step>`: named pytrees, the position in the
data and the timers, written together in the background. A checkpoint without
its manifest (`jssl.checkpoint.manifest`) was not finished and does not count.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as ocp

from jssl.checkpoint import manifest
from jssl.checkpoint.manifest import CheckpointError, write_json
from jssl.runtime import distributed, files
from jssl.typing import PyTree, Variables

_BACKBONE = "backbone"
_POSITION = "position.json"
_STRAGGLERS_SECONDS = 5.0
# For which a process that meets an error waits for the save under way.
_LAST_SAVE_SECONDS = 30.0

policies = ocp.training.preservation_policies


def _root(workdir: str | os.PathLike) -> pathlib.Path:
  return pathlib.Path(workdir).absolute() / "checkpoints"


def steps(workdir: str | os.PathLike) -> list[int]:
  """Returns the steps of all finished checkpoints, ascending."""
  return sorted(
    int(path.parent.name)
    for path in _root(workdir).glob(f"*/{manifest.NAME}")
    if path.parent.name.isdigit()
  )


def pin_best(workdir: str | os.PathLike, *, step: int, score: float) -> None:
  """Makes `step` the best checkpoint if no pinned one has a higher score.

  The best checkpoint outlives the keep policy of the training that goes on.

  Args:
    workdir: of the run.
    step: of the checkpoint.
    score: higher is better; never of the test set.
  """
  path = pathlib.Path(workdir) / "best.json"
  best = best_step(workdir)
  if best is None or score > json.loads(path.read_text())["score"]:
    write_json(path, {"step": step, "score": score})


def best_step(workdir: str | os.PathLike) -> int | None:
  """Returns the step pinned as best, None where nothing was pinned."""
  path = pathlib.Path(workdir) / "best.json"
  return json.loads(path.read_text())["step"] if path.exists() else None


class NotSavedError(CheckpointError):
  """A checkpoint could not be saved; another time it might."""


class Positioned(Protocol):
  """An iterator whose position can be kept, the same on every process."""

  def get_state(self) -> Any:
    """Returns the position, as JSON takes it."""
    ...

  def set_state(self, state: Any) -> None:
    """Goes to a position."""
    ...


class _KeepBest:
  """Keeps the checkpoint that somebody pinned, see `pin_best`."""

  def __init__(self, workdir: pathlib.Path):
    self._workdir = workdir

  def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
    del context
    best = best_step(self._workdir)
    return [checkpoint.step == best for checkpoint in checkpoints]


def _placed(leaf: Any) -> Any:
  """Returns a shaped array with a sharding: its own, or the first device's."""
  if isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
  return leaf


def _load(
  directory: pathlib.Path, items: Mapping[str, PyTree]
) -> dict[str, Any]:
  wanted = {name: jax.tree.map(_placed, item) for name, item in items.items()}
  try:
    return ocp.load_checkpointables(directory, wanted)
  except Exception as error:  # Orbax raises what its back ends raise.
    raise CheckpointError(f"{directory} can't be read: {error}") from error


def restore(
  workdir: str | os.PathLike,
  step: int,
  items: Mapping[str, PyTree],
  data: Positioned | None = None,
) -> dict[str, PyTree]:
  """Returns the named pytrees of one checkpoint.

  Args:
    workdir: of the run.
    step: of the checkpoint.
    items: trees of `jax.ShapeDtypeStruct` by name; their shardings say where
      the arrays go, whatever mesh they were saved from, and without one they
      go to the first device.
    data: an iterator that is set to where the saved one was.

  Raises:
    CheckpointError: files are damaged, or hold other arrays than `items`.
  """
  directory = _root(workdir) / str(step)
  manifest.check_files(directory)
  return _restore(directory, items, data)


def _restore(
  directory: pathlib.Path,
  items: Mapping[str, PyTree],
  data: Positioned | None,
) -> dict[str, PyTree]:
  """Does so with files that were checked."""
  manifest.check_leaves(directory, items)
  restored = _load(directory, items)
  if data is not None:
    data.set_state(json.loads((directory / _POSITION).read_text()))
  return restored


def _remove(list_paths: Callable[[], Iterable[pathlib.Path]]) -> None:
  """Removes folders to which something may still be written for a moment.

  Where one file of a save fails Orbax doesn't wait for the others: they come
  into a folder that is being removed, or make it anew.
  """
  deadline = time.monotonic() + _STRAGGLERS_SECONDS
  quiet = 0
  while quiet < 3 and time.monotonic() < deadline:
    there = [path for path in list_paths() if path.exists()]
    quiet = 0 if there else quiet + 1
    for path in there:
      shutil.rmtree(path, ignore_errors=True)
    time.sleep(0.05)


def _damage(directory: pathlib.Path) -> str:
  """Returns what is wrong with the files of a checkpoint, "" if nothing is."""
  try:
    manifest.check_files(directory)
  except CheckpointError as error:
    return str(error)
  return ""


def restore_backbone(workdir: str | os.PathLike, step: int) -> Variables:
  """Returns the backbone's variables alone, on the default device.

  Raises:
    CheckpointError: the checkpoint is damaged.
  """
  directory = _root(workdir) / str(step)
  manifest.check_files(directory)
  abstract: dict[str, Any] = {}
  for name, (dtype, shape) in manifest.leaves(directory).items():
    item, *parents, leaf = name.split("/")
    if item == _BACKBONE:
      node = abstract
      for parent in parents:
        node = node.setdefault(parent, {})
      node[leaf] = jax.ShapeDtypeStruct(shape, np.dtype(dtype))
  return _load(directory, {_BACKBONE: abstract})[_BACKBONE]


class Checkpoints:
  """The checkpoints of one run, for the process that trains.

  All processes of a run must make the same calls.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    keep_last: int,
    keep_every_steps: int | None,
  ):
    """Opens `workdir/checkpoints`.

    Args:
      workdir: of the run.
      keep_last: so many of the newest checkpoints are kept,
      keep_every_steps: and those at multiples of this, and the pinned one.
    """
    self._workdir = pathlib.Path(workdir).absolute()
    keep = [policies.LatestN(keep_last), _KeepBest(self._workdir)]
    if keep_every_steps:
      keep.append(policies.EveryNSteps(keep_every_steps))
    self._policy = policies.AnyPreservationPolicy(keep)
    self._orbax = self._open()
    self._executor = concurrent.futures.ThreadPoolExecutor(1)
    self._saving: tuple[int, concurrent.futures.Future] | None = None

  def _open(self) -> ocp.training.Checkpointer:
    return ocp.training.Checkpointer(
      _root(self._workdir),
      preservation_policy=self._policy,
      cleanup_tmp_directories=True,
    )

  def save(
    self, step: int, items: Mapping[str, PyTree], data: Positioned
  ) -> None:
    """Starts to save; the arrays may be donated once it returns.

    Args:
      step: steps done.
      items: pytrees of arrays by name, "backbone" among them.
      data: the iterator; its position is saved.

    Raises:
      NotSavedError: it could not start. The checkpoints before it stay.
    """
    try:
      self.wait()
    except CheckpointError as failure:
      logging.error("%s; trying again at step %d", failure, step)
    size = files.size(sum(leaf.nbytes for leaf in jax.tree.leaves(items)))
    response: Any = None
    error = ""
    try:
      response = self._orbax.save_checkpointables_async(
        step, dict(items), force=True
      )
    except Exception as failure:  # Orbax raises what its back ends raise.
      error = f"step {step} ({size}) can't be saved: {failure}"
    self._agree(step, error)
    leaves, position = manifest.describe(items), data.get_state()

    def finish() -> str:
      try:
        response.result()
        if distributed.is_first():
          directory = _root(self._workdir) / str(step)
          # Not by Orbax: that would be a file for each process, and none for
          # those of a run that is taken up by more.
          write_json(directory / _POSITION, position)
          manifest.write(directory, leaves)
      except Exception as failure:
        return (
          f"step {step} ({size}) wasn't saved, the checkpoints before it are "
          f"kept: {failure}"
        )
      return ""

    self._saving = step, self._executor.submit(finish)

  def wait(self) -> None:
    """Waits for the save under way.

    Raises:
      NotSavedError: it failed.
    """
    saving, self._saving = self._saving, None
    if saving is None:
      return
    step, future = saving
    self._agree(step, future.result())

  def _agree(self, step: int, error: str) -> None:
    """Raises NotSavedError on all processes where one has an error.

    What a failed save has left, in the directory and in Orbax, is removed.
    """
    errors = [own for own in distributed.all_gather_text(error) if own]
    if not errors:
      return
    # Orbax would raise the same error again from whatever it does next.
    with contextlib.suppress(Exception):
      self._orbax.close()
    # Half a checkpoint takes space, and a place in the keep policy.
    if distributed.is_first():
      root = _root(self._workdir)
      _remove(lambda: [root / str(step), *root.glob(f"{step}.*")])
    distributed.barrier(f"removed {step}")
    self._orbax = self._open()
    raise NotSavedError(errors[0])

  def restore_latest(
    self,
    items: Mapping[str, PyTree],
    data: Positioned,
    tell: Callable[[str], None] = logging.warning,
  ) -> tuple[int, dict[str, PyTree]] | None:
    """Restores the newest checkpoint that is whole.

    Newer ones, damaged or unfinished, are told and set aside in
    `workdir/damaged`.

    Args:
      items: see `restore`.
      data: see `restore`.
      tell: is called with a line for each checkpoint passed over.

    Returns:
      Its step and its trees; None where there is no checkpoint.

    Raises:
      CheckpointError: some were finished but none is whole, or the newest
        whole one holds other arrays than `items`.
    """
    # Looked at by one process, for all: no two see a disk alike.
    found, passed_over, finished = distributed.broadcast_from_first(
      self._newest_whole() if distributed.is_first() else (None, {}, 0)
    )
    for error in passed_over.values():
      tell(f"{error}; passed over")
    # Unfinished ones are no loss; what was finished is not given up unasked.
    if found is None and finished:
      raise CheckpointError(
        f"{self._workdir}: no checkpoint is whole; delete "
        f"{_root(self._workdir)} to start anew, or choose another --workdir"
      )
    for name in passed_over:
      self._set_aside(_root(self._workdir) / name)
    if found is None:
      return None
    directory = _root(self._workdir) / str(found)
    return found, _restore(directory, items, data)

  def _newest_whole(self) -> tuple[int | None, dict[str, str], int]:
    """Returns its step; by name what is wrong with newer ones; finished ones.

    Plain JSON.
    """
    wrong: dict[str, str] = {}
    for checkpoint in reversed(self._orbax.checkpoints):
      directory = _root(self._workdir) / str(checkpoint.step)
      error = _damage(directory)
      if not error:
        return checkpoint.step, wrong, len(steps(self._workdir))
      wrong[directory.name] = error
    return None, wrong, len(steps(self._workdir))

  def _set_aside(self, directory: pathlib.Path) -> None:
    aside = self._workdir / "damaged" / directory.name
    distributed.barrier(f"checked {directory.name}")
    if distributed.is_first():
      shutil.rmtree(aside, ignore_errors=True)
      aside.parent.mkdir(exist_ok=True)
      directory.rename(aside)
    distributed.barrier(f"set aside {directory.name}")
    self._orbax.reload()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    """Waits for the save under way and frees what Orbax holds."""
    if kind is not None and jax.process_count() > 1:
      self._executor.shutdown(wait=False)
      self._see_finished()
      return
    try:
      self.wait()
    except CheckpointError as error:
      # What has ended the run says more.
      if kind is None:
        raise
      logging.error("%s", error)
    finally:
      self._executor.shutdown()
      self._orbax.close()

  def _see_finished(self) -> None:
    """Waits for the save under way a while, without asking the others.

    With an error that this process alone has met: they wait elsewhere. Their
    part of the save goes on in the background, until they are told.
    """
    if self._saving is None:
      return
    step, future = self._saving
    finished = _root(self._workdir) / str(step) / manifest.NAME
    deadline = time.monotonic() + _LAST_SAVE_SECONDS
    while not finished.exists() and time.monotonic() < deadline:
      if future.done() and future.result():
        return
      time.sleep(0.1)
