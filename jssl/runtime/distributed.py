"""The processes of a run: one for each host, all running the same program.

They are JAX's own: it connects them, and XLA's collectives carry what they say
to each other.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

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
  """Connects this process with the others; to be called before JAX is used.

  TPU pods, SLURM and Kubernetes are recognised. Elsewhere the environment says
  JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and
  JAX_PROCESS_ID.

  Raises:
    ValueError: the environment says some of the three and not the others, or
      nothing, and nothing is recognised.
  """
  said = {name: os.environ.get(name) for name in _VARIABLES}
  missing = [name for name, value in said.items() if not value]
  known: dict[str, Any] = {}
  if not missing:
    address, count, index = said.values()
    try:
      known = {
        "coordinator_address": address,
        "num_processes": int(str(count)),
        "process_id": int(str(index)),
      }
    except ValueError as error:
      raise ValueError(
        f"{_VARIABLES[1]}={count} and {_VARIABLES[2]}={index} must be numbers"
      ) from error
  elif len(missing) < len(_VARIABLES):
    raise ValueError(
      f"--distributed: the environment has no {' and no '.join(missing)}; set "
      f"all of {', '.join(_VARIABLES)}, or none where the cluster is recognised"
    )
  # Of CPU devices; others have their own.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  try:
    jax.distributed.initialize(
      **known, heartbeat_timeout_seconds=exit_codes.HEARTBEAT_SECONDS
    )
  except (ValueError, RuntimeError) as error:
    raise ValueError(
      f"--distributed: the processes can't be connected: {error}. Outside of a "
      f"TPU pod, SLURM and Kubernetes set {', '.join(_VARIABLES)}"
    ) from error
  exit_codes.listen()


def check_single_process() -> None:
  """Raises where this is one of several processes that don't join.

  Each of them would train in the same workdir as if it were the only one.

  Raises:
    ValueError: the environment says that there are several.
  """
  count = os.environ.get("JAX_NUM_PROCESSES", "")
  if count not in ("", "1"):
    raise ValueError(
      f"JAX_NUM_PROCESSES={count}: this is one of several processes; start all "
      "of them with --distributed, or unset it to run alone"
    )


def is_first() -> bool:
  """Whether this is the process that writes what is written once."""
  return jax.process_index() == 0


def log_on_first(line: str) -> None:
  """Prints a line, once for all processes.

  It may go to a file on a disk that is full, which no run should end for.
  """
  if not is_first():
    return
  try:
    print(line, flush=True)
  except BrokenPipeError:  # Nobody listens any more, as after `| head`.
    raise
  except OSError as error:
    logging.error("can't write to stdout: %s", error)


@contextmanager
def preemption_signal() -> Iterator[Callable[[int], bool]]:
  """Turns SIGTERM into an answer, for as long as it lasts.

  Yields:
    `(step) -> whether to stop here`, to be asked once at each step. Of several
    processes all get the same answer, whichever was told to stop.
  """
  if jax.process_count() > 1:
    # JAX's runtime listens to the signal, and agrees on a step.
    yield multihost_utils.reached_preemption_sync_point
    return
  told = threading.Event()
  previous = signal.signal(signal.SIGTERM, lambda *_: told.set())
  try:
    yield lambda step: told.is_set()
  finally:
    signal.signal(signal.SIGTERM, previous)


def barrier(what: str) -> None:
  """Returns when every process has come here.

  Args:
    what: name of the place, the same for all.
  """
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def all_gather_text(text: str) -> list[str]:
  """Returns a text of each process, by its index."""
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
  """Returns what the first process has, on all of them; they come here at once.

  For what is decided by what lies on a disk or shows on a clock, which no two
  processes see alike.

  Args:
    value: plain JSON.
  """
  if jax.process_count() == 1:
    return value
  return json.loads(all_gather_text(json.dumps(value))[0])


def to_host(array: jax.Array) -> np.ndarray:
  """Returns the whole of an array that lies on devices of all processes."""
  if not (array.is_fully_addressable or array.is_fully_replicated):
    array = multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)


def check_same(text: str, what: str) -> None:
  """Raises where processes have different texts, line by line.

  Args:
    text: of this process.
    what: it is, for the message.

  Raises:
    ValueError: on every process, with the lines that differ from the first's.
  """
  texts = all_gather_text(text)
  first = texts[0].splitlines()
  differ = []
  for index, other in enumerate(texts):
    lines = other.splitlines()
    for ours, theirs in zip(first, lines, strict=False):
      if ours != theirs:
        differ.append(
          f"  process 0: {ours.strip()}; process {index}: {theirs.strip()}"
        )
    if len(first) != len(lines):
      differ.append(f"  process {index} has {len(lines)} lines of {len(first)}")
  if differ:
    raise ValueError(
      f"the processes have different {what}; start all of them with the same "
      "command:\n" + "\n".join(differ[:20])
    )
