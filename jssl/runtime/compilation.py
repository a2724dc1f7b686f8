"""Compilation settings of a process; call these before the first use of JAX."""

import os
import pathlib

import jax

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"


def use_cache() -> None:
  """Enables JAX's persistent compilation cache.

  The folder is JAX_COMPILATION_CACHE_DIR, by default `jssl/compiled` in the
  user's cache folder; "" disables the cache.
  """
  if _VARIABLE in os.environ:
    return
  caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  folder = pathlib.Path(caches) / "jssl" / "compiled"
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
