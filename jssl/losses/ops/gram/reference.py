"""The formula, by features.

    <A^T B, C^T E> = sum_ij <a_i, c_j> <b_i, e_j>

On the left are [d, d] matrices, on the right [n, n] ones: whichever are smaller
are computed. With C = A and E = B it is ||A^T B||^2, the sum of all squared
cross-covariances; with B = A, and E = C other rows, it is sum_ij <a_i, c_j>^2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops.matmul import product


class Factor(NamedTuple):
  """(x - shift) scale, written down as late as can be.

  Attributes:
    x: features, of any float dtype.
    shift: of each dimension, at least float32; None with `scale`: `x` as it is.
    scale: factor of each dimension, the same dtype.
  """

  x: Float[Array, "n d"]
  shift: Float[Array, "d"] | None = None
  scale: Float[Array, "d"] | None = None

  def rows(self) -> Float[Array, "n d"]:
    """Returns the rows, to be multiplied."""
    if self.shift is None or self.scale is None:
      return self.x
    wide = self.x.astype(self.shift.dtype)
    return (wide - self.shift[None]) * self.scale[None]


class Pair(NamedTuple):
  """Two factors of the same rows; `second` None takes the first again."""

  first: Factor
  second: Factor | None = None

  def map(self, function: Callable[[Factor], Factor]) -> "Pair":
    """Returns the pair of what a function makes of each factor."""
    second = None if self.second is None else function(self.second)
    return Pair(function(self.first), second)


def moment(pair: Pair, *, diagonal: bool) -> Float[Array, "d e"]:
  """Returns A^T B of these rows, with its diagonal or with zeros there."""
  first = pair.first.rows()
  second = first if pair.second is None else pair.second.rows()
  whole = product(first.T, second)
  if diagonal:
    return whole
  return jnp.where(jnp.eye(len(whole), dtype=bool), 0, whole)


def inner(
  rows: Pair, columns: Pair | None, *, diagonal: bool
) -> Float[Array, ""]:
  """Returns <A^T B, C^T E>; without columns it is ||A^T B||^2."""
  of_rows = moment(rows, diagonal=diagonal)
  if columns is None:
    return jnp.sum(of_rows**2)
  return jnp.sum(of_rows * moment(columns, diagonal=diagonal))
