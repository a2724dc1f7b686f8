"""What a train step can measure of its own batch, in a few products.

No eigenvalues, and one product of the smaller of [d, d] and [n, n]: cheap
enough for the compiled step, and they show a collapse that the loss doesn't.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.diagnostics.rows import ROUNDING, product
from jssl.typing import Metrics

NAMES = ("view_alignment", "feature_deviation", "participation_ratio")


def batch_measures(h: Float[Array, "v b d"]) -> Metrics:
  """Measures features of v views of b images, as a global batch.

  Example:
    >>> import jax
    >>> h = jax.random.normal(jax.random.key(0), (2, 64, 8))
    >>> sorted(jax.jit(batch_measures)(h))
    ['feature_deviation', 'participation_ratio', 'view_alignment']

  Args:
    h: features; they are measured without gradient, in float32 or wider.

  Returns:
    view_alignment: mean over images and pairs of views of the squared distance
      of unit features, from 0 to 4; Wang and Isola (2020).
    feature_deviation: sqrt(d) times the mean over columns of the deviation of
      unit features: 0 at collapse, about 1 where all directions vary alike;
      Chen and He (2021), section 4.1.
    participation_ratio: (tr C)^2 / tr(C^2), C the covariance: how many
      directions vary, from 1 to d; 0 where none does by more than rounding.
  """
  views, images, dim = h.shape
  wide = jnp.promote_types(h.dtype, jnp.float32)
  h = jax.lax.stop_gradient(h).astype(wide)
  square = jnp.sum(h**2, axis=-1, keepdims=True)
  unit = h * jax.lax.rsqrt(jnp.where(square == 0, 1, square))
  # Pairs of views lie twice as far apart as each lies from their mean, but for
  # the pairs of a view with itself.
  apart = unit - jnp.mean(unit, axis=0, keepdims=True)
  pairs = 2 * views / max(views - 1, 1)
  alignment = pairs * jnp.mean(jnp.sum(apart**2, axis=-1))

  rows = unit.reshape(views * images, dim)
  deviation = jnp.mean(jnp.std(rows, axis=0)) * dim**0.5

  rows = h.reshape(views * images, dim)
  # The ratio doesn't depend on the scale, and squares of squares may overflow.
  largest = jnp.max(jnp.abs(rows))
  rows = rows / jnp.where(largest == 0, 1, largest)
  whole = jnp.sum(rows**2)
  rows = rows - jnp.mean(rows, axis=0, keepdims=True)
  smaller = (rows.T, rows) if dim < len(rows) else (rows, rows.T)
  gram = product(*smaller)
  varying, total = jnp.trace(gram), jnp.sum(gram**2)
  # Rounding varies in all directions.
  varies = varying > ROUNDING * whole
  ratio = jnp.where(varies, varying**2 / jnp.where(varies, total, 1), 0)
  return dict(zip(NAMES, (alignment, deviation, ratio), strict=True))
