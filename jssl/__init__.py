"""Self-supervised image pretraining in JAX.

Subpackages are imported on first use: `jssl.losses`, `jssl.augment`,
`jssl.models`, `jssl.objectives`, `jssl.optim`, `jssl.diagnostics`,
`jssl.kernel_regime`, `jssl.weights`. `jssl.load_backbone(workdir)` loads a
trained encoder.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_SUBPACKAGES = (
  "augment",
  "diagnostics",
  "kernel_regime",
  "losses",
  "models",
  "objectives",
  "optim",
  "weights",
)

__all__ = ["__version__", "load_backbone", *_SUBPACKAGES]


def __getattr__(name: str) -> Any:
  if name in _SUBPACKAGES:
    return importlib.import_module(f"jssl.{name}")
  if name == "load_backbone":
    return importlib.import_module("jssl.weights").load_backbone
  raise AttributeError(f"module 'jssl' has no attribute {name!r}")


def __dir__() -> list[str]:
  return [*globals(), *__all__]
