"""What a ReLU does to the covariance of infinitely many Gaussian units.

Cho and Saul, "Kernel Methods for Deep Learning", NIPS 2009, section 2.
For (u, v) Gaussian with unit variances and correlation c,

    kappa_0(c) = 2 E[1(u > 0) 1(v > 0)] = 1 - arccos(c) / pi
    kappa_1(c) = 2 E[relu(u) relu(v)] = c kappa_0(c) + sqrt(1 - c^2) / pi

The 2 is that of weights with variance 2 / fan-in (He et al., 2015), so that
both are 1 at c = 1 and no layer changes a variance.

Values are exact to rounding at c = +-1, but the angle of two rows that are
equal up to rounding is known to 1e-8 only, and so is kappa_0 there. Derivatives
by c are not finite at c = +-1.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def kappa_0(cosine: Float[Array, "*n"]) -> Float[Array, "*n"]:
  """Arc-cosine kernel of degree 0, of unit rows."""
  return 1 - jnp.arccos(jnp.clip(cosine, -1, 1)) / jnp.pi


def kappa_1(cosine: Float[Array, "*n"]) -> Float[Array, "*n"]:
  """Arc-cosine kernel of degree 1, of unit rows."""
  # Rounding takes cosines past 1, where the root would be of less than 0.
  c = jnp.clip(cosine, -1, 1)
  return c * kappa_0(c) + jnp.sqrt((1 - c) * (1 + c)) / jnp.pi


def cosine(
  covariance: Float[Array, "*n"], scale: Float[Array, "*n"]
) -> Float[Array, "*n"]:
  """Returns covariance / scale, and 0 where the scale is 0.

  Args:
    covariance: of two units.
    scale: the root of the product of their variances, of a shape that
      broadcasts.
  """
  return covariance / jnp.where(scale > 0, scale, 1)
