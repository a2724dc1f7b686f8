"""Checks the annotations of `jssl` at run time, by jaxtyping and beartype."""

import functools
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

_JAX_OR_NUMPY = jax.Array | np.ndarray | np.generic

# As for mypy, an int is a float.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def _with_numpy(hint: Any) -> Any:
  """Accepts NumPy arrays in place of JAX arrays, as functions of JAX do."""
  if hint is typing.Self:  # beartype knows the class only if it decorates it
    return Any
  if hint is jax.Array:
    return _JAX_OR_NUMPY
  if isinstance(hint, type) and issubclass(hint, AbstractArray):
    if hint.array_type is jax.Array:
      return hint.dtype[_JAX_OR_NUMPY, hint.dim_str]
    return hint
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (types.UnionType, typing.Union):
    return functools.reduce(operator.or_, map(_with_numpy, args))
  if isinstance(origin, type) and issubclass(origin, Mapping | Sequence):
    return origin[tuple(map(_with_numpy, args))]
  return hint


def check(function: Callable) -> Callable:
  """Checks arguments and results of a function on each call.

  `__init__` is left alone: dataclasses raise a ValueError for bad fields.
  """
  if function.__name__ == "__init__":
    return function
  hints = function.__annotations__
  function.__annotations__ = {k: _with_numpy(hint) for k, hint in hints.items()}
  return _check(function)
