"""Rows of features: of norm 1, multiplied, and whether they are finite."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Rows whose variance is less than this share of their mean square are one
# point: float32 can't tell their differences from its rounding.
ROUNDING = 1e-12


def product(
  a: Float[Array, "n d"], b: Float[Array, "d k"]
) -> Float[Array, "n k"]:
  """Returns a b, multiplied in float32 where a device would take less."""
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def unit(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
  """Returns rows of norm 1; rows of zeros stay zeros."""
  # Twice, so that no square overflows or vanishes.
  for norm in (partial(jnp.max, initial=0), jnp.linalg.norm):
    length = norm(jnp.abs(x), axis=-1, keepdims=True)
    x = x / jnp.where(length == 0, 1, length)
  return x


def wide_rows(
  block: Float[Array, "*n d"], *, normalise: bool
) -> Float[Array, "*n d"]:
  """Returns rows in float32, of norm 1 if asked."""
  wide = block.astype(jnp.float32)
  return unit(wide) if normalise else wide


def unit_rows(x: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
  """Returns rows of norm 1 in float64, on the host; rows of zeros stay.

  Example:
    >>> import numpy as np
    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])

  Args:
    x: rows, [n, d] or [n, v, d].
  """
  wide = np.asarray(x, np.float64)
  # What is not finite is told of where it is summed.
  with np.errstate(invalid="ignore"):
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    return wide / np.where(norms == 0, 1, norms)


def not_finite(x: Float[Array, "n d"]) -> Float[Array, ""]:
  """Returns NaN if a row is not finite, which argmax doesn't show, or 0."""
  return jnp.where(jnp.isfinite(x).all(), 0, jnp.nan)
