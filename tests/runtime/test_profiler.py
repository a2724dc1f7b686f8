"""The profiler of a loop that ends with an error."""

import jax
import pytest

from jssl.runtime.profiler import StepProfiler


def test_a_profile_that_cannot_be_written_hides_no_error(monkeypatch, caplog):
  def fail():
    raise OSError("No space left on device")

  monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: None)
  monkeypatch.setattr(jax.profiler, "stop_trace", fail)

  def steps(number):
    with StepProfiler("profile", (1, 9)) as profiler:
      profiler.before(1)
      return 1 // number

  with pytest.raises(ZeroDivisionError):
    steps(0)
  assert "Could not write the profile: No space left" in caplog.text
  with pytest.raises(OSError, match="No space left"):
    steps(1)
