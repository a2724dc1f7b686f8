"""Exit codes of a run: 0 done, 1 an error that will recur, 75 try again.

An error on one of several processes ends that process with its status. JAX's
runtime ends the others once `HEARTBEAT_SECONDS` have passed without a sign of
life, by a status that is neither 0 nor 1. A launcher therefore looks at the
statuses of all processes, and does not restart a run if any of them is 1.
"""

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

import jax

HEARTBEAT_SECONDS = 20
RETRY = 75  # EX_TEMPFAIL of sysexits.h.

# How errors of the distributed runtime begin; JAX raises some as ValueError.
# RESOURCE_EXHAUSTED is missing: out-of-memory errors recur.
_RUNTIME_ERROR = re.compile(
  "(CANCELLED|UNKNOWN|DEADLINE_EXCEEDED|ABORTED|INTERNAL|UNAVAILABLE): "
)


def _is_runtime_error(error: BaseException) -> bool:
  return _RUNTIME_ERROR.match(str(error)) is not None or (
    error.__cause__ is not None and _is_runtime_error(error.__cause__)
  )


def run_with_exit_code(
  work: Callable[[], None],
  errors: tuple[type[Exception], ...],
  *,
  advice: Callable[[Exception], str] = lambda error: "",
) -> int:
  """Runs `work` and reports its errors.

  Does not return after an error if this is one of several processes.

  Args:
    work: the whole program; may connect to other processes.
    errors: exceptions whose message is enough, without a traceback.
    advice: returns what to do before the run is started again; "" for errors
      that will recur.

  Returns:
    The exit status: 0 on success, 75 after errors with advice and errors of
    the distributed runtime (most often a lost process), 1 after others.
  """
  try:
    with _exit_on_interrupt():
      work()
    _flush()
    return 0
  except Exception as error:
    hint = advice(error)
    status = RETRY if hint or _is_runtime_error(error) else 1
    with suppress(OSError):  # stderr may be a file on a full disk.
      if isinstance(error, errors):
        print(
          "\n".join(filter(None, (f"error: {error}", hint))), file=sys.stderr
        )
      else:
        traceback.print_exc()
    _flush()
  if jax.distributed.is_initialized():
    _exit_alone(status)
  return status


def _exit_alone(status: int) -> None:
  """Ends this process at once.

  A normal exit would run JAX's exit handler, which waits for the other
  processes and then aborts this one, so that its status would be lost.
  """
  if jax.process_index() == 0:
    # The others are connected through this process: if they have met the same
    # error, let them report it and exit with its status.
    time.sleep(2)
  _exit_now(status)


def _exit_now(status: int) -> None:
  for child in multiprocessing.active_children():
    child.kill()  # Data workers outlive a parent that skips its exit handlers.
  os._exit(status)


@contextmanager
def _exit_on_interrupt() -> Iterator[None]:
  """Ends the process with status 130 at Ctrl-C.

  KeyboardInterrupt may be lost in code of other libraries, such as a callback
  of Orbax, and waits for compilation. A thread ends the process instead; as
  after SIGKILL, files that are half written are not taken for whole ones.
  """
  reader, writer = os.pipe()
  os.set_blocking(writer, False)

  def watch() -> None:
    while number := os.read(reader, 1):  # Nothing once `writer` is closed.
      if number[0] == signal.SIGINT:
        with suppress(OSError):
          os.write(2, b"Interrupted.\n")
        _exit_now(130)
    os.close(reader)

  threading.Thread(target=watch, daemon=True).start()
  previous = signal.signal(signal.SIGINT, lambda *_: None)
  previous_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  try:
    yield
  finally:
    signal.set_wakeup_fd(previous_writer)
    signal.signal(signal.SIGINT, previous)
    os.close(writer)


def _flush() -> None:
  """Flushes the output; the interpreter would end with an error instead."""
  for stream in (sys.stdout, sys.stderr):
    with suppress(OSError):  # A full disk.
      stream.flush()
