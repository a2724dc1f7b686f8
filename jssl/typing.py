"""Array types with the names of axes, and bounded numbers of configs.

Annotations, einsums and docstrings use the same letters:

    b  images of a batch          v  views of an image
    h w c  height, width, channel n  tokens, or rows of a feature matrix
    d  feature dimension          k  classes, prototypes
    q  queue                      m  members of a vmapped sweep
"""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Num

Key = jax.Array
"""A typed key of `jax.random.key`; `Keys` has one per image."""
Keys = jax.Array

Scalar = Float[Array, ""]
Step = Int[Array, ""] | int

Images = Float[Array, "b h w c"]
"""Pixels in [0, 1]."""
Pixels = Num[Array | np.ndarray, "b h w c"]
"""Stored pixels: uint8, uint16, or floats in [0, 1]."""
Views = Float[Array, "_v b _h _w c"]
"""Views [v, b, h, w, c] of one size; v, h and w differ within a tuple."""
Labels = Int[Array, "b"]

PyTree = Any
Variables = Mapping[str, Any]
"""A Linen variable dict: `params` and other collections of the model."""
Batch = Mapping[str, Any]
"""`image`: `Pixels`; `label`: int32 [b], -1 where there is none."""
Metrics = dict[str, Scalar]


class Interval(typing.NamedTuple):
  """Bounds of a number, in an annotation: `Annotated[float, Interval(0, 1)]`.

  Attributes:
    low: smallest value.
    high: largest value.
    low_open: True to exclude `low`.
    high_open: True to exclude `high`.
  """

  low: float
  high: float = math.inf
  low_open: bool = False
  high_open: bool = False

  def has(self, value: float) -> bool:
    """True if the value is within the bounds."""
    above = self.low < value if self.low_open else self.low <= value
    below = value < self.high if self.high_open else value <= self.high
    return above and below

  def __str__(self) -> str:
    if self.high == math.inf:
      return "positive" if self.low_open else f"at least {self.low}"
    start, end = "[("[self.low_open], "])"[self.high_open]
    return f"in {start}{self.low}, {self.high}{end}"


T = TypeVar("T")
Positive = Annotated[T, Interval(0, low_open=True)]
"""`Positive[int]` or `Positive[float]`; the next one likewise."""
NonNegative = Annotated[T, Interval(0)]
Fraction = Annotated[float, Interval(0, 1)]
OpenFraction = Annotated[float, Interval(0, 1, low_open=True, high_open=True)]
Decay = Annotated[float, Interval(0, 1, high_open=True)]
Seed = Annotated[int, Interval(0, 2**32 - 1)]
"""Larger seeds would have the keys of smaller ones."""
Dtype = Literal["float32", "bfloat16", "float16", "float64"]


def check_value(key: str, value: Any, hint: Any) -> None:
  """Checks a value against its annotation; elements of a tuple by index.

  Raises:
    ValueError: if a number is not finite or outside its `Interval`, or a value
      is none of the choices of its `Literal`; names `key`.
  """
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is tuple:
    for i, element in enumerate(value):
      check_value(f"{key}[{i}]", element, args[0])
  if origin is Literal and (value, type(value)) not in [
    (choice, type(choice)) for choice in args
  ]:
    choices = ", ".join(map(str, args))
    raise ValueError(f"{key}={value!r}: expected one of {choices}")
  if origin is Annotated:
    check_value(key, value, args[0])
    if not args[1].has(value):
      raise ValueError(f"{key}={value} must be {args[1]}")
  if isinstance(value, float) and not math.isfinite(value):
    raise ValueError(f"{key}={value} must be a finite number")


def check_fields(section: Any, name: str) -> None:
  """Checks all fields of a dataclass against their annotations.

  Args:
    section: the dataclass; calls this in `__post_init__`.
    name: name of its section of a config, which starts the keys.

  Raises:
    ValueError: if a value is out of range, see `check_value`.
  """
  hints = typing.get_type_hints(type(section), include_extras=True)
  for field in dataclasses.fields(section):
    key = f"{name}.{field.name}"
    check_value(key, getattr(section, field.name), hints[field.name])
