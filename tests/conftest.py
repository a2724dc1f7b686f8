"""Every test runs on eight host devices, strictly.

Rank promotion raises, warnings are errors (pyproject.toml), and nothing
reaches for an accelerator.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time goes into compiling programs that run once.
os.environ["XLA_FLAGS"] = (
  "--xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", "")
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# gcsfs reads it when it is imported, and would ask an emulator by gRPC, for a
# minute each time.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

import jax
import jaxtyping
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Grain reads absl flags when it starts workers, and nobody parses them here.
flags.FLAGS.mark_as_parsed()

# Annotations of these packages (shapes, dtypes, types) are checked at run time.
# The other packages have not been run with these checks yet.
jaxtyping.install_import_hook(
  [
    "jssl.augment",
    "jssl.checkpoint",
    "jssl.config",
    "jssl.data",
    "jssl.diagnostics",
    "jssl.embed",
    "jssl.kernel_regime",
    "jssl.models",
    "jssl.objectives",
    "jssl.optim",
    "jssl.study",
  ],
  "typechecker.check",
)


@pytest.fixture(scope="session")
def bucket():
  """The environment of processes that see gs://bucket, of an emulator."""
  for package in ("gcp_storage_emulator", "gcsfs"):
    pytest.importorskip(package, reason="update it: pip install -e '.[test]'")
  # TensorStore reads the address once, so one emulator serves all tests.
  import buckets

  with buckets.bucket() as environ:
    yield environ


@pytest.fixture
def unchecked():
  """No checks of annotations, to pass wrong types to our own checks."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def x64():
  """Float64 for one test."""
  with jax.enable_x64(True):
    yield
