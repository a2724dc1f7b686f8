"""Measures of a batch that are cheap enough for a compiled train step.

They show a collapse that the loss hides, at the cost of one matrix product.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.diagnostics.pairs import product
from jssl.diagnostics.rows import ROUNDING
from jssl.losses.rows import l2_normalize
from jssl.typing import Metrics

NAMES = ("view_alignment", "feature_deviation", "participation_ratio")


def batch_measures(h: Float[Array, "v b d"]) -> Metrics:
  """Measures the features of a global batch, for use inside of `jax.jit`.

  Example:
    >>> import jax
    >>> h = jax.random.normal(jax.random.key(0), (2, 64, 8))
    >>> sorted(jax.jit(batch_measures)(h))
    ['feature_deviation', 'participation_ratio', 'view_alignment']

  Args:
    h: features of v views of b images; no gradient flows into them.

  Returns:
    view_alignment: mean squared distance of two views of an image, of
      normalised features, in [0, 4]; Wang and Isola (2020).
    feature_deviation: sqrt(d) times the mean standard deviation of normalised
      columns: 0 at collapse, about 1 if all directions vary alike; Chen and He
      (2021), section 4.1.
    participation_ratio: (tr C)^2 / tr(C^2) of the covariance C, the number of
      directions that vary: 1 to d, or 0 if none varies beyond rounding.
  """
  views, images, dim = h.shape
  wide = jnp.promote_types(h.dtype, jnp.float32)
  h = jax.lax.stop_gradient(h).astype(wide)
  unit = l2_normalize(h)
  # The mean over ordered pairs of the squared distance is twice the variance;
  # pairs of a view with itself are taken out.
  centred = unit - jnp.mean(unit, axis=0, keepdims=True)
  pairs = 2 * views / max(views - 1, 1)
  alignment = pairs * jnp.mean(jnp.sum(centred**2, axis=-1))

  rows = unit.reshape(views * images, dim)
  deviation = jnp.mean(jnp.std(rows, axis=0)) * dim**0.5

  rows = h.reshape(views * images, dim)
  # The ratio does not depend on the scale; fourth powers may overflow.
  largest = jnp.max(jnp.abs(rows))
  rows = rows / jnp.where(largest == 0, 1, largest)
  whole = jnp.sum(rows**2)
  rows = rows - jnp.mean(rows, axis=0, keepdims=True)
  smaller = (rows.T, rows) if dim < len(rows) else (rows, rows.T)
  gram = product(*smaller)
  varying, total = jnp.trace(gram), jnp.sum(gram**2)
  # Rounding alone would vary in all directions.
  varies = varying > ROUNDING * whole
  ratio = jnp.where(varies, varying**2 / jnp.where(varies, total, 1), 0)
  return dict(zip(NAMES, (alignment, deviation, ratio), strict=True))
