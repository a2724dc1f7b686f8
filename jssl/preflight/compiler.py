"""Compiles in a process of its own, because a compiler may crash."""

import multiprocessing
import multiprocessing.connection
import signal
from collections.abc import Callable
from importlib import metadata
from typing import Any, TypeVar

from jssl.preflight.targets import Target

T = TypeVar("T")


def _send(
  sender: multiprocessing.connection.Connection,
  target: Target,
  function: Callable[..., Any],
  arguments: tuple,
) -> None:
  target.prepare()
  try:
    sender.send(function(*arguments))
  except (ValueError, TypeError) as error:
    sender.send(error)
  except Exception as error:  # Errors of XLA cannot be sent.
    sender.send(RuntimeError(str(error)))


def _describe_end(status: int) -> str:
  if status >= 0:
    return f"status {status}"
  return signal.Signals(-status).name


def in_own_process(
  target: Target, what: str, function: Callable[..., T], *arguments: Any
) -> T:
  """Returns `function(*arguments)`, computed by a new process.

  Args:
    target: the target that the function compiles for.
    what: what it compiles, such as "the train step", for messages.
    function: a function of a module; with its arguments and result it is sent
      between the processes.
    *arguments: its arguments.

  Raises:
    ValueError, TypeError: if the function raises them.
    RuntimeError: if it raises another error, or the process crashes.
  """
  context = multiprocessing.get_context("spawn")
  receiver, sender = context.Pipe(duplex=False)
  process = context.Process(
    target=_send, args=(sender, target, function, arguments)
  )
  process.start()
  sender.close()
  try:
    found = receiver.recv()
  except EOFError:
    process.join()
    raise RuntimeError(
      f"target={target.name}: the compiler ({_version(target)}) ended with "
      f"{_describe_end(process.exitcode or 0)} while it compiled {what}. It is "
      "a fault of that version or too little memory: try another version of "
      "jax and its compiler (newer ones need Python 3.12), or another size of "
      "the target"
    ) from None
  process.join()
  if isinstance(found, Exception):
    raise found
  return found


def _version(target: Target) -> str:
  packages = ["libtpu" if target.is_tpu else "jax-cuda12-plugin", "jax"]
  return ", ".join(
    f"{name} {metadata.version(name)}"
    for name in packages
    if any(metadata.distributions(name=name))
  )
