"""Compilation settings of a process; call these before the first use of JAX."""

import contextlib
import os
from collections.abc import Iterator

import jax

from jssl.runtime import files

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED",)
# Not INTERNAL, by which a lost process may be told: it may pass.
_COMPILER_ERRORS = (*OUT_OF_MEMORY, "INVALID_ARGUMENT", "UNIMPLEMENTED")
_SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"


def use_cache() -> None:
  """Enables JAX's persistent compilation cache.

  The folder is JAX_COMPILATION_CACHE_DIR, by default `jssl/compiled` in the
  user's cache folder; "" disables the cache, as does a user without a home.
  """
  if _VARIABLE in os.environ:
    return
  try:
    folder = files.user_cache() / "compiled"
  except RuntimeError:  # No HOME, and a user that the system does not know.
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))


def order_cpu_collectives() -> None:
  """Makes several CPU devices start their collectives in the same order.

  By default, XLA starts independent operations in any order. With as few
  threads as devices, each thread can then wait in a different collective until
  the run aborts; this happened with `head.strategy="implicit"` on two devices.
  The option belongs to the process, not to a program; XLA_FLAGS overrides it.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  if _SCHEDULER not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {_SCHEDULER}=false".strip()


@contextlib.contextmanager
def explain_errors(
  program: str = "the training step",
  advice: str = "Lower data.batch_size or the size of the model, raise "
  "train.chunks or mesh.fsdp, or set model.remat of a ViT; "
  "`python -m jssl.preflight` shows the memory",
  *,
  kinds: tuple[str, ...] = _COMPILER_ERRORS,
) -> Iterator[None]:
  """Raises errors of the compiler or the device as a ValueError of one line.

  Args:
    program: subject of the message.
    advice: end of the message, with the keys to change.
    kinds: status codes to explain; other errors are raised unchanged.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if not str(error).startswith(kinds):
      raise
    reason = str(error).split("\n", 1)[0]
    raise ValueError(
      f"{program} could not be compiled or does not fit the devices: {reason} "
      f"{advice}"
    ) from None
