"""How this process compiles, to be said before JAX is used."""

import os
import pathlib

import jax

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"


def keep() -> None:
  """Makes JAX keep what takes it long to compile, in a cache on this machine.

  In the folder that JAX_COMPILATION_CACHE_DIR says, else in `jssl/compiled` of
  the user's caches; set it to "" to keep nothing.
  """
  if _VARIABLE in os.environ:
    return
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  folder = pathlib.Path(home) / "jssl" / "compiled"
  jax.config.update("jax_compilation_cache_dir", str(folder))


def in_one_order() -> None:
  """Makes several CPU devices begin their collectives in the same order.

  By default XLA starts what doesn't depend on each other in any order. Where
  threads are as few as devices each can then wait for a collective that another
  hasn't begun, and the run aborts: seen with `head.update="implicit"` on two.
  It is an option of the process, not of a program; XLA_FLAGS can say otherwise.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  if _SCHEDULER not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {_SCHEDULER}=false".strip()
