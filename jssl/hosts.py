"""The processes of a run: one for each host, all running the same program.

They are JAX's own: it connects them, and XLA's collectives carry what they say
to each other.
"""

import atexit
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from absl import logging

# What the processes tell each other where no collective would be answered. JAX
# has no public name for it; Orbax takes it from here too.
from jax._src import distributed
from jax.experimental import multihost_utils

T = TypeVar("T")

_VARIABLES = (
  "JAX_COORDINATOR_ADDRESS",
  "JAX_NUM_PROCESSES",
  "JAX_PROCESS_ID",
)
# After so long without a sign of life a process is taken for dead, and JAX's
# runtime ends the others, saying which it was.
HEARTBEAT_SECONDS = 20
# How soon a process hears that another one ended, and is waited for.
_LISTEN_SECONDS = 1.0
_HEARD_SECONDS = 15
_DONE_SECONDS = 300
_ENDED = "jssl/ended"
# Exit status where the same run would go on: EX_TEMPFAIL.
_AGAIN = 75
# How it begins, also where JAX raises a ValueError of it, as of a collective.
_STATUS = re.compile(
  "(CANCELLED|UNKNOWN|DEADLINE_EXCEEDED|ABORTED|INTERNAL|UNAVAILABLE): "
)


class _Others:
  """The other processes, for one that ends by an error that they don't meet.

  They would wait for it in a collective, and it for them in JAX's own exit,
  for minutes; then JAX would end all of them by a status that says nothing.
  """

  def __init__(self) -> None:
    """Listens, in a thread."""
    state = distributed.global_state
    self._client: Any = state.client
    self._index, self.count = state.process_id, state.num_processes
    self._ends = threading.Lock()
    self._quiet = threading.Event()
    self._thread = threading.Thread(target=self._listen, daemon=True)
    self._thread.start()
    # Before JAX leaves: nothing may ask it then.
    atexit.register(self._stop)

  def _listen(self) -> None:
    while not self._quiet.wait(_LISTEN_SECONDS):
      try:
        said = self._client.key_value_dir_get(_ENDED)
      except jax.errors.JaxRuntimeError:
        # Process 0 is gone: the runtime says so, and ends this process.
        continue
      if said and self._ends.acquire(blocking=False):
        index, status, why = json.loads(said[0][1])
        line = f"error: process {index} of {self.count} can't go on: {why}"
        with suppress(OSError):  # It may go to a full disk.
          print(line, file=sys.stderr)
        self._leave(status)

  def _stop(self) -> None:
    self._quiet.set()
    self._thread.join()

  def _leave(self, status: int) -> NoReturn:
    try:
      # All have heard it when all are here.
      with suppress(jax.errors.JaxRuntimeError):
        self._client.wait_at_barrier(_ENDED, _HEARD_SECONDS * 1000)
      if self._index == 0:
        # The others are connected through this one.
        time.sleep(1)
      # Workers that read images would go on.
      for child in multiprocessing.active_children():
        child.kill()
      for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
          stream.flush()
    finally:
      os._exit(status)

  def end(self, status: int, why: str) -> NoReturn:
    """Ends this process and all others, who say why."""
    # Unless they were told already, and this one is about to end.
    self._ends.acquire()
    with suppress(jax.errors.JaxRuntimeError):
      said = json.dumps([self._index, status, why])
      self._client.key_value_set(f"{_ENDED}/first", said)
    self._leave(status)

  def part(self) -> None:
    """Returns when all are done; each may still be told of an error."""
    with suppress(jax.errors.JaxRuntimeError):
      self._client.wait_at_barrier("jssl/done", _DONE_SECONDS * 1000)


_others: _Others | None = None


def join() -> None:
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
      **known, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
    )
  except (ValueError, RuntimeError) as error:
    raise ValueError(
      f"--distributed: the processes can't be connected: {error}. Outside of a "
      f"TPU pod, SLURM and Kubernetes set {', '.join(_VARIABLES)}"
    ) from error
  global _others
  _others = _Others()


def _is_of_runtime(error: BaseException) -> bool:
  """Whether an error is the connection's, or was raised of one that is.

  A device without memory, RESOURCE_EXHAUSTED, has none the next time either.
  """
  return _STATUS.match(str(error)) is not None or (
    error.__cause__ is not None and _is_of_runtime(error.__cause__)
  )


def _would_come_back(error: Exception) -> str:
  del error
  return ""


def carry_out(
  work: Callable[[], None],
  errors: tuple[type[Exception], ...],
  *,
  advice: Callable[[Exception], str] = _would_come_back,
) -> int:
  """Does the work of a process, and says what went wrong.

  An error that one of several processes meets alone ends all of them, by the
  same status.

  Args:
    work: all of it; it may join other processes.
    errors: whose message says enough.
    advice: what to say of an error that will have passed when the work is
      started again; "" of others.

  Returns:
    The exit status. 0: it is done; 1: an error that would come back; 75: one
    that passes, or what the runtime of several processes says, most often that
    one is gone.
  """
  try:
    work()
  except Exception as error:
    what_to_do = advice(error)
    why = f"{error}\n{what_to_do}" if what_to_do else str(error)
    if isinstance(error, errors):
      with suppress(OSError):  # It may go to a full disk too.
        print(f"error: {why}", file=sys.stderr)
    elif _others is None:
      raise
    else:
      with suppress(OSError):
        traceback.print_exc()
    lost = _is_of_runtime(error)
    status = _AGAIN if lost or what_to_do else 1
    if _others is None:
      return status
    if lost and _others.count > 1:
      # If one is gone, the runtime says which, and ends this one.
      time.sleep(2 * HEARTBEAT_SECONDS)
    name = "" if isinstance(error, errors) else f"{type(error).__name__}: "
    _others.end(status, f"{name}{why}")
  if _others is not None:
    _others.part()
  return 0


def check_alone() -> None:
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


def say(line: str) -> None:
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
def preemption() -> Iterator[Callable[[int], bool]]:
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


def wait_for_all(what: str) -> None:
  """Returns when every process has come here.

  Args:
    what: name of the place, the same for all.
  """
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def texts_of_all(text: str) -> list[str]:
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


def first_says(value: T) -> T:
  """Returns what the first process has, on all of them; they come here at once.

  For what is decided by what lies on a disk or shows on a clock, which no two
  processes see alike.

  Args:
    value: plain JSON.
  """
  if jax.process_count() == 1:
    return value
  return json.loads(texts_of_all(json.dumps(value))[0])


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
  texts = texts_of_all(text)
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
