"""Self-supervised image pretraining in JAX.

`import jssl` is cheap: what needs JAX is imported when it is asked for.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load_backbone"]


def __getattr__(name: str) -> Any:
  if name == "load_backbone":
    from jssl.config.build import load_backbone

    return load_backbone
  raise AttributeError(f"module 'jssl' has no attribute {name!r}")
