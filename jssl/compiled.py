"""Programs that were compiled once are kept for the next process."""

import os
import pathlib

import jax

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


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
