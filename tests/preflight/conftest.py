"""Programs are compiled here, not read from another checkout's cache."""

import os

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def own_source_lines():
  """Keeps source lines of other checkouts out of compiled programs."""
  name = "jax_compilation_cache_include_metadata_in_key"
  os.environ[name.upper()] = "1"
  jax.config.update(name, True)
  yield
  jax.config.update(name, False)
  del os.environ[name.upper()]
