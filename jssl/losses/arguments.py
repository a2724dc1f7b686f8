"""What every loss asks of its arguments, at trace time.

Each function takes arrays by the name that messages will use.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jssl.losses.ops.layout import Layout
from jssl.losses.ops.matmul import wide
from jssl.typing import Scalar

# Other halves lack the range that gradients need.
_HALF = jnp.bfloat16


def floats(arrays: Mapping[str, Array], shape: str) -> tuple[Array, ...]:
  """Returns arrays of one dtype: bfloat16, float32 or float64.

  Args:
    arrays: by name.
    shape: that all of them have, in letters: "b d".

  Raises:
    TypeError: one isn't an array, or not of a floating dtype.
    ValueError: one hasn't as many dimensions.
  """
  letters = shape.split()
  for name, x in arrays.items():
    if not isinstance(x, jax.Array | np.ndarray):
      raise TypeError(f"{name} must be an array, got {type(x).__name__}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise TypeError(f"{name} must be of a floating dtype, got {x.dtype}")
    if x.ndim != len(letters):
      raise ValueError(
        f"{name} must be of shape [{', '.join(letters)}], got {x.shape}"
      )
    if 0 in x.shape:
      raise ValueError(f"{name} must not be empty, got {x.shape}")
  return of_one_dtype(*map(jnp.asarray, arrays.values()))


def of_one_dtype(*arrays: Array) -> tuple[Array, ...]:
  """Returns arrays as wide as the widest: bfloat16, float32 or float64."""
  dtype = jnp.result_type(*arrays)
  if dtype != _HALF:
    dtype = wide(dtype)
  return tuple(x.astype(dtype) for x in arrays)


def same_shape(shape: str, **arrays: Array) -> tuple[Array, ...]:
  """Returns arrays as `floats` does, all of one shape."""
  shapes = {name: np.shape(x) for name, x in arrays.items()}
  out = floats(arrays, shape)
  if len(set(shapes.values())) > 1:
    told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    raise ValueError(f"{told}: must be of one shape")
  return out


def prototypes(
  features: Mapping[str, Array], **matrices: Array
) -> tuple[Array, ...]:
  """Returns prototype matrices [k, d] that fit the last dimension of features.

  Args:
    features: one for each matrix, by name.
    **matrices: by name.
  """
  out = floats(matrices, "k d")
  for (name, x), (other, w) in zip(
    features.items(), matrices.items(), strict=True
  ):
    if w.shape[1] != x.shape[-1]:
      raise ValueError(
        f"{other} {w.shape} must have rows as wide as {name} {x.shape}"
      )
  sizes = {name: len(w) for name, w in matrices.items()}
  if len(set(sizes.values())) > 1:
    raise ValueError(f"as many prototypes are expected on both sides: {sizes}")
  return out


def scalar(like: Array, **values: Scalar | float) -> tuple[Scalar, ...]:
  """Returns scalars, at least float32, and as wide as an array.

  Raises:
    TypeError: one isn't a real number.
    ValueError: one has a shape.
  """
  dtype = wide(like.dtype)
  for name, value in values.items():
    numeric = isinstance(
      value, int | float | np.generic | jax.Array | np.ndarray
    )
    kind = jnp.result_type(value) if numeric else None
    if kind is None or not (
      jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)
    ):
      raise TypeError(f"{name} must be a real number, got {value!r}")
    if np.shape(value) != ():
      raise ValueError(f"{name} must be a scalar, got {np.shape(value)}")
  return tuple(jnp.asarray(value, dtype) for value in values.values())


def count(**values: int) -> None:
  """Raises unless values are integers, and at least 1."""
  for name, value in values.items():
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
      raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
      raise ValueError(f"{name} must be at least 1, got {value}")


def positive(like: Array, **values: Scalar | float) -> tuple[Scalar, ...]:
  """Returns scalars as `scalar` does, which are positive where that is known.

  Raises:
    ValueError: one isn't a scalar, or isn't positive.
  """
  out = scalar(like, **values)
  for name, value in values.items():
    # What is traced has no value yet.
    if not isinstance(value, jax.core.Tracer) and not float(value) > 0:
      raise ValueError(f"{name} must be positive, got {value}")
  return out


def at_least(
  layout: Layout, rows: int, **arrays: Float[Array, "b ..."]
) -> None:
  """Raises a ValueError unless arrays have `rows` rows on all devices."""
  for name, x in arrays.items():
    if layout.rows(len(x)) < rows:
      raise ValueError(
        f"{name} has {layout.rows(len(x))} rows in all, at least {rows} needed"
      )
