"""Saves and restores the checkpoints of a run; the only importer of Orbax.

A checkpoint is a folder `workdir/checkpoints/STEP` with named pytrees, written
in the background. Without its manifest (see `jssl.checkpoint.manifest`) it is
unfinished and ignored.
"""

import concurrent.futures
import contextlib
import errno
import os
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from absl import logging
from flax.traverse_util import unflatten_dict
from orbax.checkpoint import v1 as ocp

from jssl.checkpoint import manifest
from jssl.checkpoint.best import KeepBest, root
from jssl.checkpoint.manifest import CheckpointError
from jssl.runtime import distributed, files
from jssl.runtime.paths import Path, as_path
from jssl.typing import PyTree, Variables

X64 = "jax_enable_x64"
"""Fact of a checkpoint: True if JAX computed with 64-bit floats."""

policies = ocp.training.preservation_policies


def steps(workdir: str | os.PathLike) -> list[int]:
  """Returns the steps of all finished checkpoints, ascending."""
  folder = root(workdir)
  # A pattern would list all objects of a store.
  return sorted(
    int(path.name)
    for path in (folder.iterdir() if folder.is_dir() else ())
    if path.name.isdigit() and (path / manifest.NAME).exists()
  )


class NotSavedError(CheckpointError):
  """A checkpoint could not be saved; a later attempt may succeed."""


def restore(
  workdir: str | os.PathLike,
  step: int,
  items: Mapping[str, PyTree],
  *,
  check_files: bool = True,
  partial: bool = False,
) -> dict[str, PyTree]:
  """Restores named pytrees of one checkpoint.

  Args:
    workdir: workdir of the run.
    step: step of the checkpoint.
    items: trees of `jax.ShapeDtypeStruct` by name. Arrays are restored with
      these shardings, whatever mesh they were saved from; without a sharding,
      on the first device.
    check_files: True if the files are compared with the manifest.
    partial: True if `items` may lack leaves of the checkpoint, which are not
      read.

  Raises:
    CheckpointError: if files are damaged, or do not match `items`.
  """
  directory = root(workdir) / str(step)
  if check_files:
    manifest.check_files(directory)
  _check_precision(directory, items)
  manifest.check_leaves(directory, items, partial=partial)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  placed = jax.tree.map(
    lambda leaf: (
      leaf.update(sharding=device)
      if isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is None
      else leaf
    ),
    dict(items),
  )
  context = ocp.Context()
  context.pytree.loading.partial_load = partial
  try:
    with context:
      return ocp.load_checkpointables(os.fspath(directory), placed)
  except Exception as error:  # Orbax passes on any error of its back ends.
    raise CheckpointError(f"could not read {directory}: {error}") from error


def _check_precision(directory: Path, items: PyTree) -> None:
  """Warns of another precision; raises CheckpointError if JAX would round."""
  enabled = getattr(jax.config, X64)
  saved = manifest.facts(directory).get(X64, enabled)
  if saved == enabled:
    return
  difference = f"{directory} was saved with {X64}={saved}, now {enabled}"
  if saved and any(
    isinstance(leaf, jax.ShapeDtypeStruct) and leaf.dtype == np.float64
    for leaf in jax.tree.leaves(items)
  ):
    raise CheckpointError(f"{difference}; set JAX_ENABLE_X64=1")
  logging.warning("%s. Results may differ.", difference)


def restore_backbone(
  workdir: str | os.PathLike,
  step: int,
  *,
  teacher: bool = False,
  check_files: bool = True,
) -> Variables:
  """Restores the variables of one backbone alone, on the first device.

  Args:
    workdir: workdir of the run.
    step: step of the checkpoint.
    teacher: True for the averaged backbone, False for the trained one.
    check_files: see `restore`.

  Raises:
    CheckpointError: if the checkpoint is damaged or has no such backbone.
  """
  directory = root(workdir) / str(step)
  prefix = "training/teacher/" if teacher else "backbone/"
  abstract = {
    name: jax.ShapeDtypeStruct(shape, np.dtype(dtype))
    for name, (dtype, shape) in manifest.leaves(directory).items()
    if name.startswith(prefix)
  }
  if not abstract:
    raise CheckpointError(f"{directory} has no arrays of {prefix[:-1]}")
  items = unflatten_dict(abstract, sep="/")
  restored = restore(
    workdir, step, items, check_files=check_files, partial=True
  )
  return restored["training"]["teacher"] if teacher else restored["backbone"]


class Checkpoints:
  """Saves the checkpoints of a training run and restores the latest.

  All processes of a run must make the same calls.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    keep_last: int,
    keep_every_steps: int | None,
    facts: Mapping[str, Any] = MappingProxyType({}),
  ):
    """Opens `workdir/checkpoints`.

    Kept are the pinned checkpoint, the `keep_last` newest ones and those at
    multiples of `keep_every_steps`. `facts` are JSON values, by name, that a
    checkpoint shares with every run that resumes from it.
    """
    self._facts = facts
    self._workdir = as_path(workdir).absolute()
    self._root = root(workdir)
    keep = [policies.LatestN(keep_last), KeepBest(self._workdir)]
    if keep_every_steps:
      keep.append(policies.EveryNSteps(keep_every_steps))
    self._policy = policies.AnyPreservationPolicy(keep)
    self._orbax = self._open(cleanup_tmp_directories=True)
    self._executor = concurrent.futures.ThreadPoolExecutor(1)
    self._pending: tuple[int, concurrent.futures.Future] | None = None

  def _open(self, **options: bool) -> ocp.training.Checkpointer:
    return ocp.training.Checkpointer(
      os.fspath(self._root), preservation_policy=self._policy, **options
    )

  def save(self, step: int, items: Mapping[str, PyTree]) -> None:
    """Starts to save in the background, after the previous save has ended.

    Args:
      step: number of steps done.
      items: trees of arrays by name, "backbone" among them; they may be
        donated once `save` returns.

    Raises:
      NotSavedError: if the save could not start.
    """
    try:
      self.wait()
    except NotSavedError as failure:
      logging.error("%s. Retrying at step %d.", failure, step)
    started = time.monotonic()
    size = files.format_bytes(sum(x.nbytes for x in jax.tree.leaves(items)))
    failed = f"could not save checkpoint at step {step} ({size})"
    response: Any = None
    error = ""
    try:
      response = self._orbax.save_checkpointables_async(
        step, dict(items), force=True
      )
    except Exception as failure:  # Orbax passes on any error of its back ends.
      error = f"{failed}: {failure}"
    self._raise_on_all(step, error)
    leaves = manifest.describe(items)

    def finish() -> str:
      """Returns the error, or an empty string."""
      try:
        response.result()
        if distributed.is_first():
          manifest.write(self._root / str(step), leaves, self._facts)
          seconds = time.monotonic() - started
          distributed.log_on_first(
            f"Saved checkpoint at step {step} ({seconds:.1f} s)."
          )
      except Exception as failure:
        return f"{failed}: {failure}"
      return ""

    self._pending = step, self._executor.submit(finish)

  def wait(self) -> None:
    """Waits for the save in progress.

    Raises:
      NotSavedError: if it failed; older checkpoints are kept.
      CheckpointError: if this process may not open more files.
    """
    pending, self._pending = self._pending, None
    if pending is not None:
      step, future = pending
      self._raise_on_all(step, future.result())

  def _raise_on_all(self, step: int, error: str) -> None:
    """Raises NotSavedError on all processes if any of them has an error."""
    errors = [text for text in distributed.all_gather_text(error) if text]
    if not errors:
      return
    # Orbax would raise the same error again from its next call.
    with contextlib.suppress(Exception):
      self._orbax.close()
    # A failed checkpoint takes space and counts in the keep policy. Files that
    # Orbax may still be writing are removed at the next start.
    if distributed.is_first():
      for path in (self._root / str(step), *self._root.glob(f"{step}.*")):
        files.remove_tree(path, ignore_errors=True)
    distributed.barrier(f"removed {step}")
    self._orbax = self._open()
    if os.strerror(errno.EMFILE) in errors[0]:
      raise CheckpointError(
        f"{errors[0]}; raise the limit of open files with `ulimit -n`"
      )
    raise NotSavedError(errors[0])

  def restore_latest(
    self, items: Mapping[str, PyTree]
  ) -> tuple[int, dict[str, PyTree]] | None:
    """Restores the newest intact checkpoint.

    Newer ones, damaged or unfinished, are moved to `workdir/damaged`.

    Returns:
      The step and the trees, or None if there is no checkpoint; `items` are
      those of `restore`.

    Raises:
      CheckpointError: if all finished checkpoints are damaged, or the newest
        intact one does not match `items` or `facts`.
    """
    # Process 0 decides: on a network file system hosts see different files.
    step = distributed.broadcast_from_first(
      self._find_latest() if distributed.is_first() else None
    )
    self._orbax.reload()
    if step is None:
      return None
    manifest.check_facts(self._root / str(step), self._facts)
    return step, restore(self._workdir, step, items, check_files=False)

  def _find_latest(self) -> int | None:
    """Returns the newest intact step, and moves newer folders to `damaged`."""
    latest, damaged = None, []
    folders = [path for path in self._root.iterdir() if path.name.isdigit()]
    for folder in sorted(folders, key=lambda path: -int(path.name)):
      try:
        manifest.check_files(folder)
        latest = int(folder.name)
        break
      except CheckpointError as error:
        logging.warning("Skipped a damaged checkpoint: %s.", error)
        damaged.append(folder)
    # Unfinished checkpoints are no loss, but only users give up finished ones.
    if latest is None and steps(self._workdir):
      raise CheckpointError(
        f"{self._workdir}: all checkpoints are damaged; delete {self._root} to "
        "start over, or choose another --workdir"
      )
    for folder in damaged:
      target = self._workdir / "damaged" / folder.name
      files.remove_tree(target, ignore_errors=True)
      target.parent.mkdir(exist_ok=True)
      folder.rename(target)
    return latest

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    """Waits for the save in progress and closes Orbax."""
    if kind is not None and jax.process_count() > 1:
      # After an error on this process alone the others would not join `wait`.
      self._executor.shutdown(wait=False)
      return
    try:
      try:
        self.wait()
      finally:
        self._executor.shutdown()
        self._orbax.close()
    except Exception as error:  # Hides no exception that is on its way.
      if kind is None:
        raise
      logging.error("%s", error)
