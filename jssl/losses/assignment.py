"""Cross-entropies between soft assignments to prototypes.

The logits never exist as an array: a cross-entropy between two softmaxes over
the same prototypes is a log-sum-exp minus a dot product of features (see
`ops.prototypes.reference`), for any number of pairs of views.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jssl.losses.ops import prototypes, similarity
from jssl.losses.ops.layout import Layout
from jssl.losses.rows import dots
from jssl.typing import Scalar


def columns_of(
  weights: Float[Array, "k d"], bias: Float[Array, "k"] | None = None
) -> similarity.Operand:
  """Returns prototypes as columns, with an optional bias of the logits."""
  return similarity.operand(weights, 1.0, ids=1, bias=bias)


def rows_of(
  z: Float[Array, "b v d"],
  temperature: Scalar,
  bias: Float[Array, "b v"] | Float[Array, "b*v"] | None = None,
  ids: Int[Array, "b*v"] | int = 0,
) -> similarity.Operand:
  """Returns all views as rows, grouped by image; bias is one of the logits."""
  flat = z.reshape(-1, z.shape[-1])
  return similarity.operand(
    flat,
    1 / temperature,
    ids=ids,
    bias=None if bias is None else bias.reshape(-1),
  )


def log_sum_exp(
  layout: Layout,
  z: Float[Array, "b v d"],
  weights: Float[Array, "k d"],
  temperature: Scalar,
) -> Float[Array, "b v"]:
  """Returns the log-sum-exp of each view's logits."""
  lse = similarity.log_sum_exp(
    layout, rows_of(z, temperature), columns_of(weights), replicated=True
  )
  return lse.reshape(z.shape[:2])


def sinkhorn_scales(
  layout: Layout,
  z: Float[Array, "b v d"],
  weights: Float[Array, "k d"],
  epsilon: Scalar,
  iterations: int,
  used: Bool[Array, "b v"] | None = None,
) -> Float[Array, "k"]:
  """Returns log column scales g, for assignments softmax_k(S_ik + g_k).

  Rows that are not used are absent; g is large and finite without used rows.
  """
  # Equal ids mask a pair: those of the columns are 1.
  ids = 0 if used is None else jnp.where(used.reshape(-1), 0, 1)
  by_row = None
  for _ in range(iterations - 1):
    _, columns = similarity.log_sum_exps(
      layout,
      rows_of(z, epsilon, by_row, ids),
      columns_of(weights),
      replicated=True,
    )
    scaled = columns_of(weights, layout.as_varying(-columns))
    by_row = -similarity.log_sum_exp(
      layout, rows_of(z, epsilon), scaled, replicated=True
    )
  _, columns = similarity.log_sum_exps(
    layout,
    rows_of(z, epsilon, by_row, ids),
    columns_of(weights),
    replicated=True,
  )
  return -columns


def mean_prototypes(
  layout: Layout,
  teacher: Float[Array, "b u e"],
  teacher_prototypes: Float[Array, "k e"],
  center: Float[Array, "k"],
  temperature: Scalar,
  values: Float[Array, "k d"],
) -> Float[Array, "b u d"]:
  """Returns the mean of `values` under the centred teacher's assignments.

  No gradient flows to the teacher, its prototypes, center and temperature.

  Args:
    layout: layout of the images.
    teacher: features of the teacher.
    teacher_prototypes: prototypes of the teacher.
    center: center of its logits.
    temperature: temperature of its logits.
    values: prototypes of the student, already varying.
  """
  teacher, teacher_prototypes, center, temperature = jax.lax.stop_gradient(
    (teacher, teacher_prototypes, center, temperature)
  )
  theirs, bias = layout.as_varying((teacher_prototypes, -center / temperature))
  mean = prototypes.attend(
    layout, rows_of(teacher, temperature), columns_of(theirs, bias), values
  ).mean
  return mean.reshape(*teacher.shape[:2], -1)


def cross_entropy(
  layout: Layout,
  mean: Float[Array, "b u d"],
  z: Float[Array, "b v d"],
  lse: Float[Array, "b v"],
  temperature: Scalar,
  weights: Float[Array, "b"] | None = None,
) -> Scalar:
  """Returns the cross-entropy, averaged over images and views a != c.

  Args:
    layout: layout of the images.
    mean: mean prototype under the assignment of each target view a.
    z: features of the predicting views c.
    lse: log-sum-exp of their logits.
    temperature: temperature of their logits.
    weights: weights of the images.
  """
  pairs = _other_views(mean.shape[1], z.shape[1])
  products = dots(mean[:, :, None], z[:, None])
  by_pair = layout.mean(lse[:, None] - products / temperature, weights)
  return jnp.sum(by_pair * pairs) / pairs.sum()


def _other_views(u: int, v: int) -> Bool[np.ndarray, "u v"]:
  return np.arange(u)[:, None] != np.arange(v)
