"""Inner products of cross-moments: the formula, by features.

    <A^T B, C^T E> = sum_ij <a_i, c_j> <b_i, e_j>

The left side multiplies [d, d] matrices, the right side [n, n] matrices. With
C = A and E = B it is ||A^T B||^2, the sum of all squared cross-covariances;
with B = A and E = C it is sum_ij <a_i, c_j>^2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops.matmul import matmul


class Factor(NamedTuple):
  """The rows (x - shift) * scale, computed where they are multiplied.

  Attributes:
    x: features, of any float dtype.
    shift: shift of each dimension, at least float32; None for `x` as it is.
    scale: factor of each dimension, of the same dtype; None with `shift`.
  """

  x: Float[Array, "n d"]
  shift: Float[Array, "d"] | None = None
  scale: Float[Array, "d"] | None = None

  def rows(self) -> Float[Array, "n d"]:
    """Returns the rows."""
    if self.shift is None or self.scale is None:
      return self.x
    upcast = self.x.astype(self.shift.dtype)
    return (upcast - self.shift[None]) * self.scale[None]


class Pair(NamedTuple):
  """Two factors with the same rows; `second` is None if it equals `first`."""

  first: Factor
  second: Factor | None = None

  def map(self, function: Callable[[Factor], Factor]) -> "Pair":
    """Applies a function to both factors."""
    second = None if self.second is None else function(self.second)
    return Pair(function(self.first), second)


def moment(pair: Pair, *, diagonal: bool) -> Float[Array, "d e"]:
  """Returns A^T B, with its diagonal or with zeros there."""
  first = pair.first.rows()
  second = first if pair.second is None else pair.second.rows()
  product = matmul(first.T, second)
  if diagonal:
    return product
  return jnp.where(jnp.eye(len(product), dtype=bool), 0, product)


def inner(
  rows: Pair, columns: Pair | None, *, diagonal: bool
) -> Float[Array, ""]:
  """Returns <A^T B, C^T E>; ||A^T B||^2 without columns."""
  of_rows = moment(rows, diagonal=diagonal)
  if columns is None:
    return jnp.sum(of_rows**2)
  return jnp.sum(of_rows * moment(columns, diagonal=diagonal))
