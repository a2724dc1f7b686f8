"""How a process of a run ends: by which status, and who hears of it."""

import atexit
import json
import multiprocessing
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import jax

# What the processes tell each other where no collective would be answered. JAX
# has no public name for it; Orbax takes it from here too.
from jax._src import distributed

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


def listen() -> None:
  """Hears of errors of the other processes; once they are connected."""
  global _others
  _others = _Others()


def _is_of_runtime(error: BaseException) -> bool:
  """Whether an error is the connection's, or was raised of one that is.

  A device without memory, RESOURCE_EXHAUSTED, has none the next time either.
  """
  return _STATUS.match(str(error)) is not None or (
    error.__cause__ is not None and _is_of_runtime(error.__cause__)
  )


def run_with_exit_code(
  work: Callable[[], None],
  errors: tuple[type[Exception], ...],
  *,
  advice: Callable[[Exception], str] = lambda error: "",
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
