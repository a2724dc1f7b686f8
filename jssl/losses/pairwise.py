"""Contrastive losses that are sums over pairs: no row competes with another."""

import functools

from jaxtyping import Array, Float

from jssl.losses import arguments
from jssl.losses.ops import gram, sigmoid
from jssl.losses.ops.autodiff import Implementation
from jssl.losses.ops.gram import Factor, Pair
from jssl.losses.ops.layout import AxisNames, Layout, run
from jssl.losses.rows import dots
from jssl.typing import Scalar


def sigmoid_contrastive(
  x: Float[Array, "b d"],
  y: Float[Array, "b d"],
  *,
  scale: float | Scalar,
  bias: float | Scalar,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """The pairwise sigmoid loss of SigLIP.

      -1/b sum_ij log sigmoid(l_ij (scale <x_i, y_j> + bias))

  with l_ij = 1 for i = j, else -1. Rows are taken as they are: SigLIP's are
  normalised by its model. Zero features and bias 0 give b log 2.

  Example:
    >>> import jax
    >>> x, y = jax.random.normal(jax.random.key(0), (2, 8, 16)) / 4
    >>> loss = sigmoid_contrastive(x, y, scale=10.0, bias=-10.0)

  Args:
    x: features of the one side, [b, d].
    y: features of the other side of the same pairs, [b, d].
    scale: positive; SigLIP's exp(t').
    bias: SigLIP's b, negative against the many negatives at the start.
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The sum over pairs by b, float32 or wider.

  Raises:
    ValueError: shapes differ or are not [b, d], scale <= 0, or one of scale and
      bias is no scalar.
    TypeError: an input is not of a floating dtype.

  Reference:
    Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023,
    eq. 2 and algorithm 1.
  """
  x, y = arguments.same_shape("b d", x=x, y=y)
  (scale,) = arguments.positive(x, scale=scale)
  (bias,) = arguments.scalar(x, bias=bias)
  loss = functools.partial(_sigmoid_contrastive, implementation=implementation)
  return run(
    loss, x, y, scale, bias, axis_name=axis_name, batch_axes=batch_axes, split=2
  )


def _sigmoid_contrastive(
  layout: Layout,
  x: Float[Array, "b d"],
  y: Float[Array, "b d"],
  scale: Scalar,
  bias: Scalar,
  implementation: Implementation | None,
) -> Scalar:
  scale, bias = layout.per_device((scale, bias))
  ids = layout.positions(len(x))
  total = sigmoid.total(
    layout, x, y, scale, bias, ids=(ids, ids), implementation=implementation
  )
  return total / layout.rows(len(x))


def spectral_contrastive(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """The spectral contrastive loss.

      -2/b sum_i <z1_i, z2_i> + 1/(b (b - 1)) sum_{i != j} <z1_i, z2_j>^2

  Rows are taken as they are. Zero features have loss 0, equal unit rows -1; the
  least, in expectation, is -d where d directions are used.

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = spectral_contrastive(z1, z2)

  Args:
    z1: features of the first view, [b, d].
    z2: features of the second view of the same images, [b, d].
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The loss, float32 or wider.

  Raises:
    ValueError: shapes differ or are not [b, d], or b < 2.
    TypeError: an input is not of a floating dtype.

  Reference:
    HaoChen et al., "Provable Guarantees for Self-Supervised Deep Learning with
    Spectral Contrastive Loss", NeurIPS 2021, eq. 6.
  """
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  loss = functools.partial(_spectral_contrastive, implementation=implementation)
  return run(loss, z1, z2, axis_name=axis_name, batch_axes=batch_axes, split=2)


def _spectral_contrastive(
  layout: Layout,
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  implementation: Implementation | None,
) -> Scalar:
  arguments.at_least(layout, 2, z1=z1)
  b = layout.rows(len(z1))
  positives = dots(z1, z2)
  # sum_ij <z1_i, z2_j>^2, of which the positives are no negatives.
  squares = gram.inner(
    layout, Pair(Factor(z1)), Pair(Factor(z2)), implementation=implementation
  )
  negatives = (squares - b * layout.mean(positives**2)) / float(b * (b - 1))
  return negatives - 2 * layout.mean(positives)
