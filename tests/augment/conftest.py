"""Fixtures: compile quickly, as these tests compile much and compute little."""

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_to_compile():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
