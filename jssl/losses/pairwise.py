"""Contrastive losses that are sums over independent pairs."""

from typing import Unpack

from jaxtyping import Array, Float

from jssl.losses import arguments
from jssl.losses.ops import gram, sigmoid
from jssl.losses.ops.gram import Factor, Pair
from jssl.losses.ops.layout import Layout, Options, with_layout
from jssl.losses.rows import dots
from jssl.typing import Scalar


def sigmoid_contrastive(
  x: Float[Array, "b d"],
  y: Float[Array, "b d"],
  *,
  scale: float | Scalar,
  bias: float | Scalar,
  **options: Unpack[Options],
) -> Scalar:
  """SigLIP: the pairwise sigmoid loss.

      -1/b sum_ij log sigmoid(l_ij (scale <x_i, y_j> + bias))

  with l_ij = 1 for i = j, else -1. Rows are not normalised here; SigLIP
  normalises them in its model. Zero features and bias 0 give b log 2.

  Example:
    >>> import jax
    >>> x, y = jax.random.normal(jax.random.key(0), (2, 8, 16)) / 4
    >>> loss = sigmoid_contrastive(x, y, scale=10.0, bias=-10.0)

  Args:
    x: features of the first modality or view, [b, d].
    y: features of the second, paired with `x`, [b, d].
    scale: positive factor of the dot products, exp(t') in the paper.
    bias: summand of the logits, initially -10 in the paper: most pairs are
      negative.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The sum over pairs divided by b, float32 or wider.

  Raises:
    ValueError: if shapes differ or are not [b, d], scale <= 0, or scale or
      bias is not a scalar.

  Reference:
    Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023,
    eq. 2 and algorithm 1.
  """
  x, y = arguments.same_shape("b d", x=x, y=y)
  (scale,) = arguments.positive(x, scale=scale)
  (bias,) = arguments.scalar(x, bias=bias)
  return with_layout(_sigmoid_contrastive, (x, y), (scale, bias), **options)


def _sigmoid_contrastive(
  layout: Layout,
  x: Float[Array, "b d"],
  y: Float[Array, "b d"],
  scale: Scalar,
  bias: Scalar,
) -> Scalar:
  scale, bias = layout.as_varying((scale, bias))
  ids = layout.positions(len(x))
  total = sigmoid.total(layout, x, y, scale, bias, ids=(ids, ids))
  return total / layout.num_rows(len(x))


def spectral_contrastive(
  z1: Float[Array, "b d"], z2: Float[Array, "b d"], **options: Unpack[Options]
) -> Scalar:
  """Spectral contrastive loss.

      -2/b sum_i <z1_i, z2_i> + 1/(b (b - 1)) sum_{i != j} <z1_i, z2_j>^2

  Rows are not normalised. Zero features have loss 0, equal unit rows -1. The
  minimum, in expectation, is -d for features of rank d.

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = spectral_contrastive(z1, z2)

  Args:
    z1: features of the first view, [b, d].
    z2: features of the second view of the same images, [b, d].
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The loss, float32 or wider.

  Raises:
    ValueError: if shapes differ or are not [b, d], or b < 2.

  Reference:
    HaoChen et al., "Provable Guarantees for Self-Supervised Deep Learning with
    Spectral Contrastive Loss", NeurIPS 2021, eq. 6.
  """
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  return with_layout(_spectral_contrastive, (z1, z2), (), **options)


def _spectral_contrastive(
  layout: Layout, z1: Float[Array, "b d"], z2: Float[Array, "b d"]
) -> Scalar:
  arguments.at_least(layout, 2, z1=z1)
  b = layout.num_rows(len(z1))
  positives = dots(z1, z2)
  # sum_ij <z1_i, z2_j>^2, positives included.
  squares = gram.inner(layout, Pair(Factor(z1)), Pair(Factor(z2)))
  negatives = (squares - b * layout.mean(positives**2)) / float(b * (b - 1))
  return negatives - 2 * layout.mean(positives)
