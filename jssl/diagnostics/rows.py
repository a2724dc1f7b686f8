"""Operations on rows of features that several measures share."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jssl.losses.rows import l2_normalize

# Rows count as one point if their variance is below this share of their mean
# square: float32 cannot tell smaller differences from rounding.
ROUNDING = 1e-12


def product(
  a: Float[Array, "n d"], b: Float[Array, "d k"]
) -> Float[Array, "n k"]:
  """Returns `a @ b` at full float32 precision on every backend."""
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def unit(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
  """Returns `x` with rows of norm 1; rows of zeros stay zero."""
  # Divides by the largest entry first, so that no square over- or underflows.
  largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0)
  return l2_normalize(x / jnp.where(largest == 0, 1, largest))


def float32_rows(
  block: Float[Array, "*n d"], *, normalise: bool
) -> Float[Array, "*n d"]:
  """Returns rows in float32, normalised if asked."""
  wide = block.astype(jnp.float32)
  return unit(wide) if normalise else wide


def unit_rows(x: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
  """Normalises rows to norm 1, on the host in float64.

  Example:
    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])

  Args:
    x: features, [n, d] or [n, v, d].

  Returns:
    The normalised rows; rows of zeros stay zero.
  """
  wide = np.asarray(x, np.float64)
  # Non-finite rows are reported by the sums that use them.
  with np.errstate(invalid="ignore"):
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    return wide / np.where(norms == 0, 1, norms)


def float64_mean(
  x: Float[np.ndarray, "..."], axis: int | tuple[int, ...] = 0
) -> Float[np.ndarray, "..."]:
  """Returns the mean in float64, without NumPy's warning for non-finite x."""
  with np.errstate(invalid="ignore"):
    return x.mean(axis, dtype=np.float64)


def nan_unless_finite(x: Float[Array, "n d"]) -> Float[Array, ""]:
  """Returns 0, or NaN if any entry is not finite (argmax would hide it)."""
  return jnp.where(jnp.isfinite(x).all(), 0, jnp.nan)
