"""The processes of a distributed run, and small messages between them.

There is one process per host (on GPUs, per device), connected by JAX; messages
are XLA collectives, so all processes must make the same calls.
"""

import difflib
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from jssl.runtime import exit_codes

T = TypeVar("T")

_VARIABLES = (
  "JAX_COORDINATOR_ADDRESS",
  "JAX_NUM_PROCESSES",
  "JAX_PROCESS_ID",
)


def initialize() -> None:
  """Connects the processes of a run; call this before the first use of JAX.

  JAX recognises TPU pods, SLURM and Kubernetes. Elsewhere, set
  JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and
  JAX_PROCESS_ID.

  Raises:
    ValueError: if only some of the three are set, or none is and JAX does not
      recognise the cluster.
  """
  address, count, index = (os.environ.get(name) or None for name in _VARIABLES)
  # Collectives between CPU devices of several processes.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  try:
    jax.distributed.initialize(
      address,
      num_processes=int(count) if count else None,
      process_id=int(index) if index else None,
      heartbeat_timeout_seconds=exit_codes.HEARTBEAT_SECONDS,
    )
  except (ValueError, RuntimeError) as error:
    raise ValueError(
      f"--distributed: could not connect the processes. Set all of "
      f"{', '.join(_VARIABLES)}, or none of them on TPU pods, SLURM and "
      f"Kubernetes: {error}"
    ) from error


def check_single_process() -> None:
  """Checks that the environment does not describe several processes.

  Each of them would train in the same workdir as if it were the only one.

  Raises:
    ValueError: if JAX_NUM_PROCESSES is larger than 1.
  """
  count = os.environ.get("JAX_NUM_PROCESSES", "")
  if count not in ("", "1"):
    raise ValueError(
      f"JAX_NUM_PROCESSES={count} is set: start all processes with "
      "--distributed, or unset it to run a single process"
    )


def is_first() -> bool:
  """True on process 0, which writes the files that exist once."""
  return jax.process_index() == 0


def log_on_first(line: str) -> None:
  """Prints a line on process 0; logs a failure, such as a full disk."""
  if not is_first():
    return
  try:
    # One write: background saves log too.
    print(f"{line}\n", end="", flush=True)
  except OSError as error:
    logging.error("Could not write to stdout: %s", error)


@contextmanager
def preemption_signal() -> Iterator[Callable[[int], bool]]:
  """Catches SIGTERM.

  Yields:
    `should_stop(step)`, to be called once per step. It returns True on all
    processes at the same step after any of them received SIGTERM.
  """
  if jax.process_count() > 1:
    # JAX's runtime catches the signal, and the processes agree on a step.
    yield multihost_utils.reached_preemption_sync_point
    return
  received = threading.Event()
  previous = signal.signal(signal.SIGTERM, lambda *_: received.set())
  try:
    yield lambda step: received.is_set()
  finally:
    signal.signal(signal.SIGTERM, previous)


def barrier(name: str) -> None:
  """Waits until every process has called it with the same `name`."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def all_gather_text(text: str) -> list[str]:
  """Returns the texts of all processes, by process index."""
  if jax.process_count() == 1:
    return [text]
  own = np.frombuffer(text.encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(len(own)))
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: len(own)] = own
  rows = multihost_utils.process_allgather(padded)
  return [
    bytes(row[: int(size)]).decode()
    for row, size in zip(rows, sizes, strict=True)
  ]


def broadcast_from_first(value: T) -> T:
  """Returns the value of process 0 on all processes.

  Decisions that depend on files or clocks need it: no two processes see the
  same.

  Args:
    value: JSON-serialisable; ignored on other processes.
  """
  if jax.process_count() == 1:
    return value
  return json.loads(all_gather_text(json.dumps(value))[0])


def to_host(array: jax.Array) -> np.ndarray:
  """Returns a global array, which may span processes, as one NumPy array."""
  if not (array.is_fully_addressable or array.is_fully_replicated):
    array = multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)


def check_same(text: str, name: str) -> None:
  """Checks that all processes have the same text.

  Args:
    text: the text of this process.
    name: plural noun for the message, such as "configs".

  Raises:
    ValueError: on every process, with the first difference to process 0.
  """
  first, *others = (text.splitlines() for text in all_gather_text(text))
  for index, other in enumerate(others, 1):
    lines = difflib.unified_diff(
      first, other, "process 0", f"process {index}", n=0, lineterm=""
    )
    if difference := "\n".join(itertools.islice(lines, 20)):
      raise ValueError(
        f"the processes have different {name}; start all of them with the same "
        f"command:\n{difference}"
      )
