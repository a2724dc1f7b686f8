"""Self-supervised image pretraining in JAX.

Subpackages are imported on first use: `jssl.losses`, `jssl.augment`,
`jssl.models`, `jssl.objectives`, `jssl.optim`, `jssl.diagnostics`,
`jssl.kernel_regime`, `jssl.weights`. `jssl.load_backbone(workdir)` loads a
trained encoder. `losses`, `augment` and `diagnostics` need no more than JAX,
jaxtyping and NumPy; the others need `pip install 'jssl[train]'`.
"""

import importlib
from types import ModuleType
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


def _import(name: str) -> ModuleType:
  try:
    return importlib.import_module(f"jssl.{name}")
  except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    if package == "jssl":
      raise
    raise ModuleNotFoundError(
      f"jssl.{name} needs the package {package}: pip install 'jssl[train]'",
      name=error.name,
    ) from error


def __getattr__(name: str) -> Any:
  if name in _SUBPACKAGES:
    return _import(name)
  if name == "load_backbone":
    return _import("weights").load_backbone
  raise AttributeError(f"module 'jssl' has no attribute {name!r}")


def __dir__() -> list[str]:
  return [*globals(), *__all__]
