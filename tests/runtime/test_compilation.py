"""Settings of the compiler, and its errors."""

import pwd

import jax
import pytest

from jssl.runtime import compilation


def test_a_user_without_a_home_has_no_compilation_cache(monkeypatch):
  """As in `docker run --user 12345`."""

  def unknown(uid):
    raise KeyError(uid)

  monkeypatch.setattr(pwd, "getpwuid", unknown)
  for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
    monkeypatch.delenv(name, raising=False)
  before = jax.config.jax_compilation_cache_dir
  compilation.use_cache()
  assert jax.config.jax_compilation_cache_dir == before


def test_an_error_of_the_compiler_is_one_line():
  with (
    pytest.raises(
      ValueError, match=r"RESOURCE_EXHAUSTED: no room\. Lower"
    ) as e,
    compilation.explain_errors(),
  ):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room.\nbuffers")
  assert "\n" not in str(e.value)
  with (
    pytest.raises(jax.errors.JaxRuntimeError),
    compilation.explain_errors(),
  ):
    raise jax.errors.JaxRuntimeError("UNAVAILABLE: connection closed")


def test_an_error_of_a_compiled_step_is_a_defect_unless_memory_is_short():
  with (
    pytest.raises(jax.errors.JaxRuntimeError),
    compilation.explain_errors(kinds=compilation.OUT_OF_MEMORY),
  ):
    raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: disallowed transfer")
