"""Losses that tell the other view of an image from the views of all others."""

import jax.numpy as jnp
from jax import lax
from jax.nn import logsumexp
from jaxtyping import Array, Float

from jssl.typing import Scalar

# A row shorter than this is left as short as it is: zero rows have zero
# similarity to everything, and a finite gradient.
_MIN_NORM = 1e-12

# Masks a logit. Finite, so that no gradient is ever inf - inf.
_MASKED = -1e30


def _inverse_norms(z: Float[Array, "b d"]) -> Float[Array, "b"]:
  z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
  return lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=1), _MIN_NORM**2))


def _cosines(
  x: Float[Array, "b d"], y: Float[Array, "c d"]
) -> Float[Array, "b c"]:
  """Cosine similarities of all rows, in float32 or wider.

  The norms divide the product, not its factors: half-precision inputs go into
  the matrix product as they are, and no normalised copy is made.
  """
  wide = jnp.promote_types(x.dtype, jnp.float32)
  products = lax.dot_general(
    x, y, (((1,), (1,)), ((), ())), preferred_element_type=wide
  )
  return products * _inverse_norms(x)[:, None] * _inverse_norms(y)[None]


def nt_xent(
  z1: Float[Array, "b d"], z2: Float[Array, "b d"], *, temperature: float
) -> Scalar:
  """The normalised temperature-scaled cross-entropy of SimCLR.

  Each of the 2b rows must find its image's other view among the 2b - 1 others:

      -1/2b sum_i log exp(c(i, i')/T) / sum_{k != i} exp(c(i, k)/T)

  with c the cosine. Rows are normalised here. At collapse (all rows equal) it
  is log(2b - 1); with positives at cosine 1 and orthogonal negatives,
  log(1 + (2b - 2) exp(-1/T)).

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = nt_xent(z1, z2, temperature=0.1)

  Args:
    z1: projections of the first view, [b, d].
    z2: projections of the second view of the same images, [b, d].
    temperature: T, positive.

  Returns:
    The mean over 2b rows, float32 or wider.

  Raises:
    ValueError: shapes differ or are not [b, d], b < 2, or temperature <= 0.
    TypeError: an input is not of a floating dtype.

  Reference:
    Chen et al., "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020, eq. 1.
  """
  for name, z in (("z1", z1), ("z2", z2)):
    if not jnp.issubdtype(z.dtype, jnp.floating):
      raise TypeError(f"{name} must be of a floating dtype, got {z.dtype}")
    if z.ndim != 2:
      raise ValueError(f"{name} must be of shape [b, d], got {z.shape}")
  if z1.shape != z2.shape:
    raise ValueError(f"z1 {z1.shape} and z2 {z2.shape} must have one shape")
  if z1.shape[0] < 2:
    raise ValueError("z1, z2 must have b >= 2 rows: one has no negatives")
  if isinstance(temperature, int | float) and temperature <= 0:
    raise ValueError(f"temperature must be positive, got {temperature}")

  # The 2b x 2b matrix is symmetric: three of its four blocks say it all.
  own = jnp.eye(z1.shape[0], dtype=bool)
  within1 = jnp.where(own, _MASKED, _cosines(z1, z1) / temperature)
  within2 = jnp.where(own, _MASKED, _cosines(z2, z2) / temperature)
  across = _cosines(z1, z2) / temperature
  row1 = jnp.logaddexp(logsumexp(within1, axis=1), logsumexp(across, axis=1))
  row2 = jnp.logaddexp(logsumexp(within2, axis=1), logsumexp(across, axis=0))
  # Row by row: on a mesh the diagonal of a matrix would be gathered.
  products = jnp.einsum("bd,bd->b", z1, z2, preferred_element_type=across.dtype)
  positive = products * _inverse_norms(z1) * _inverse_norms(z2) / temperature
  return jnp.mean((row1 + row2) / 2 - positive)
