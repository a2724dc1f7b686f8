"""Contrastive losses: a softmax over the similarities of all pairs."""

import functools
from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jssl.losses import arguments
from jssl.losses.ops import similarity
from jssl.losses.ops.layout import Layout, Options, with_layout
from jssl.losses.rows import cosines, dots, interleaved, inverse_norms, upcast
from jssl.typing import Scalar


def _within(
  layout: Layout,
  z: Float[Array, "n d"],
  temperature: Scalar,
  ids: Int[Array, "n"],
) -> Float[Array, "n"]:
  """Returns log sum_k exp(c(i, k) / T) over the rows k with another id."""
  # The temperature is split between both factors: the matrix is symmetric.
  scale = inverse_norms(z) * jax.lax.rsqrt(temperature)
  rows = similarity.operand(z, scale, ids=ids)
  return similarity.log_sum_exp(layout, rows)


def nt_xent(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  temperature: float | Scalar,
  weights: Float[Array, "b"] | None = None,
  **options: Unpack[Options],
) -> Scalar:
  """NT-Xent, the loss of SimCLR: cross-entropy over all other views.

  Each of the 2b views is classified among the 2b - 1 other views:

      -1/2b sum_i log exp(c(i, i')/T) / sum_{k != i} exp(c(i, k)/T)

  with c the cosine similarity; i' is the other view of i's image. Rows are
  normalised inside. At collapse (all rows equal) the loss is log(2b - 1). With
  positives at cosine 1 and orthogonal negatives it is
  log(1 + (2b - 2) exp(-1/T)), slightly above the minimum.

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = nt_xent(z1, z2, temperature=0.1)

  Args:
    z1: projections of the first view, [b, d].
    z2: projections of the second view of the same images, [b, d].
    temperature: positive temperature T.
    weights: weight of each image in the mean, [b]; see `jssl.losses`.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The mean over 2b rows, float32 or wider.

  Raises:
    ValueError: if shapes differ or are not [b, d], b < 2, or temperature <= 0.

  Reference:
    Chen et al., "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020, eq. 1.
  """
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  (t,) = arguments.positive(z1, temperature=temperature)
  w = arguments.weights(weights, len(z1), z1)
  return with_layout(_nt_xent, (z1, z2, w), (t,), **options)


def _nt_xent(
  layout: Layout,
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  weights: Float[Array, "b"] | None,
  temperature: Scalar,
  *,
  decoupled: bool = False,
) -> Scalar:
  arguments.at_least(layout, 2, z1=z1)
  ids = layout.positions(2 * len(z1))
  if decoupled:
    # Views of an image share an id, and are masked for each other.
    ids = ids // 2
  lse = _within(layout, interleaved(z1, z2), temperature, ids)
  by_view = None if weights is None else jnp.repeat(weights, 2)
  positives = layout.mean(cosines(z1, z2), weights)
  return layout.mean(lse, by_view) - positives / temperature


def dcl(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  temperature: float | Scalar,
  weights: Float[Array, "b"] | None = None,
  **options: Unpack[Options],
) -> Scalar:
  """DCL: NT-Xent without the positive pair in the denominator.

      -1/2b sum_i [c(i, i')/T - log sum_{k != i, i'} exp(c(i, k)/T)]

  Rows are normalised inside. At collapse the loss is log(2b - 2). With
  positives at cosine 1 and orthogonal negatives it is log(2b - 2) - 1/T.

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = dcl(z1, z2, temperature=0.1)

  Args:
    z1: projections of the first view, [b, d].
    z2: projections of the second view of the same images, [b, d].
    temperature: positive temperature T.
    weights: weight of each image in the mean, [b]; see `jssl.losses`.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The mean over 2b rows, float32 or wider.

  Raises:
    ValueError: if shapes differ or are not [b, d], b < 2, or temperature <= 0.

  Reference:
    Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, eq. 6.
  """
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  (t,) = arguments.positive(z1, temperature=temperature)
  w = arguments.weights(weights, len(z1), z1)
  return with_layout(_nt_xent, (z1, z2, w), (t,), **options, decoupled=True)


def info_nce(
  queries: Float[Array, "b d"],
  keys: Float[Array, "m d"],
  *,
  temperature: float | Scalar,
  negatives: Float[Array, "q d"] | None = None,
  symmetric: bool = False,
  weights: Float[Array, "b"] | None = None,
  **options: Unpack[Options],
) -> Scalar:
  """InfoNCE: cross-entropy of each query against all keys or a queue.

      -1/b sum_i log exp(c(q_i, k_i)/T) / sum_j exp(c(q_i, k_j)/T)

  Rows are normalised inside. With `negatives` (MoCo v2), the denominator sums
  over the positive and the negatives only, not over other keys of the batch.
  Gradients flow to all inputs: apply `jax.lax.stop_gradient` to the keys of a
  teacher. At collapse the loss is log of the number of keys, log(1 + q)
  with a queue.

  Example:
    >>> import jax
    >>> x, y = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = info_nce(x, y, temperature=0.1, symmetric=True)

  Args:
    queries: embeddings, [b, d].
    keys: embeddings, [m, d], m >= b; the first b show the images of the
      queries, in order, the others are further negatives. Inside `shard_map`
      this holds on each device.
    temperature: positive temperature T.
    negatives: queue of negatives, [q, d]; replicated on a mesh.
    symmetric: True to average with the loss of swapped queries and keys.
    weights: weight of each query in the mean, [b]; see `jssl.losses`.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The mean over b rows, float32 or wider. MoCo v3 multiplies by 2T.

  Raises:
    ValueError: if shapes don't match, m < 2 without a queue, m > b with
      `negatives` or `symmetric`, or temperature <= 0.

  Reference:
    van den Oord et al., "Representation Learning with Contrastive Predictive
    Coding", 2018, eq. 4; He et al., "Momentum Contrast", CVPR 2020, eq. 1.
  """
  queries, keys = arguments.floats({"queries": queries, "keys": keys}, "b d")
  equal = symmetric or negatives is not None
  if queries.shape[1] != keys.shape[1] or (
    len(keys) != len(queries) if equal else len(keys) < len(queries)
  ):
    raise ValueError(
      f"queries {queries.shape}, keys {keys.shape}: must have the same width, "
      "and more keys than queries only without negatives and symmetric"
    )
  (t,) = arguments.positive(queries, temperature=temperature)
  queue: tuple[Array, ...] = ()
  if negatives is not None:
    (bank,) = arguments.floats({"negatives": negatives}, "q d")
    if bank.shape[1] != queries.shape[1]:
      raise ValueError(
        f"negatives {bank.shape} must be as wide as queries {queries.shape}"
      )
    queries, keys, bank = arguments.of_one_dtype(queries, keys, bank)
    queue = (bank,)
  w = arguments.weights(weights, len(queries), queries)
  return with_layout(
    _info_nce, (queries, keys, w), (t, *queue), symmetric=symmetric, **options
  )


def _info_nce(
  layout: Layout,
  queries: Float[Array, "b d"],
  keys: Float[Array, "m d"],
  weights: Float[Array, "b"] | None,
  temperature: Scalar,
  negatives: Float[Array, "q d"] | None = None,
  *,
  symmetric: bool,
) -> Scalar:
  positives = cosines(queries, keys[: len(queries)]) / temperature

  def rows(x: Float[Array, "n d"]) -> similarity.Operand:
    return similarity.operand(x, inverse_norms(x) / temperature, ids=0)

  def columns(x: Float[Array, "m d"]) -> similarity.Operand:
    return similarity.operand(x, inverse_norms(x), ids=1)

  denominators: Sequence[Array]
  if negatives is not None:
    queue = columns(layout.as_varying(negatives))
    lse = functools.partial(
      similarity.log_sum_exp, layout, columns=queue, replicated=True
    )
    askers = (queries, keys) if symmetric else (queries,)
    denominators = [jnp.logaddexp(positives, lse(rows(x))) for x in askers]
  else:
    arguments.at_least(layout, 2, keys=keys)
    sides = rows(queries), columns(keys)
    if symmetric:
      denominators = similarity.log_sum_exps(layout, *sides)
    else:
      denominators = [similarity.log_sum_exp(layout, *sides)]
  means = [layout.mean(lse, weights) for lse in denominators]
  return sum(means) / len(means) - layout.mean(positives, weights)


def cissl(
  student: Float[Array, "2*b d"],
  teacher: Float[Array, "2*b d"],
  *,
  temperature: float | Scalar,
  weights: Float[Array, "2*b"] | None = None,
  **options: Unpack[Options],
) -> Scalar:
  """CISSL, contrastive invariant self-supervised learning.

  Each row of the student is matched to both views of its image among all 2b
  rows of the teacher, its own view included:

      -1/2b sum_i 1/2 [log q_i(i) + log q_i(i')],  q_i = softmax_k(c(i, k)/T)

  Rows are normalised inside. Gradients flow to the teacher, which is a second
  head. At collapse the loss is log 2b; its infimum is log 2.

  Example:
    >>> import jax
    >>> s, t = jax.random.normal(jax.random.key(0), (2, 16, 8))
    >>> loss = cissl(s, t, temperature=0.07)

  Args:
    student: both views, stacked: rows i and i + b show one image, [2b, d].
      Inside `shard_map`, each device holds both views of its images.
    teacher: outputs of the other head for the same rows, [2b, d].
    temperature: positive temperature T.
    weights: weight of each row in the mean, [2b]; see `jssl.losses`.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The mean over 2b rows, float32 or wider.

  Raises:
    ValueError: if shapes differ or are not [2b, d], or temperature <= 0.

  Reference:
    Dubois et al., "Improving Self-Supervised Learning by Characterizing
    Idealized Representations", NeurIPS 2022, section 4.2 and official code.
  """
  student, teacher = arguments.same_shape(
    "2*b d", student=student, teacher=teacher
  )
  if len(student) % 2:
    raise ValueError(
      "student and teacher must stack two views (an even number of rows), got "
      f"{len(student)} rows"
    )
  (t,) = arguments.positive(student, temperature=temperature)
  w = arguments.weights(weights, len(student), student)
  return with_layout(_cissl, (student, teacher, w), (t,), **options)


def _cissl(
  layout: Layout,
  student: Float[Array, "2*b d"],
  teacher: Float[Array, "2*b d"],
  weights: Float[Array, "2*b"] | None,
  temperature: Scalar,
) -> Scalar:
  lse = similarity.log_sum_exp(
    layout,
    similarity.operand(student, inverse_norms(student) / temperature, ids=0),
    similarity.operand(teacher, inverse_norms(teacher), ids=1),
  )
  other = jnp.roll(teacher, len(teacher) // 2, axis=0)
  found = (cosines(student, teacher) + cosines(student, other)) / 2
  return layout.mean(lse, weights) - layout.mean(found, weights) / temperature


def supervised_contrastive(
  z: Float[Array, "n d"],
  labels: Int[Array, "n"],
  *,
  temperature: float | Scalar,
  weights: Float[Array, "n"] | None = None,
  **options: Unpack[Options],
) -> Scalar:
  """SupCon, the supervised contrastive loss: rows of one class are positives.

      -1/n sum_i 1/|P(i)| sum_{p in P(i)} log exp(c(i, p)/T) /
                                              sum_{k != i} exp(c(i, k)/T)

  with P(i) the other rows with i's label (the paper's L_out). Rows are
  normalised inside. A row without positives counts as 0, as in the official
  code. With one label per image the loss equals NT-Xent. At collapse it is
  log(n - 1).

  Sums over classes take as much memory on each device as the features of the
  whole batch in float32.

  Example:
    >>> import jax
    >>> z = jax.random.normal(jax.random.key(0), (8, 16))
    >>> labels = jax.numpy.arange(8) % 3
    >>> loss = supervised_contrastive(z, labels, temperature=0.1)

  Args:
    z: projections of all views, [n, d].
    labels: integer labels, [n]; negative where there is none. A row without a
      label has no positives and is a negative of all other rows. To make the
      views of an unlabelled image positives, give it a label of its own.
    temperature: positive temperature T.
    weights: weight of each row in the mean, [n]; see `jssl.losses`.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The mean over n rows, float32 or wider.

  Raises:
    ValueError: if `z` is not [n, d], `labels` not [n], n < 2, or temperature <=
      0.
    TypeError: if `labels` is not an integer array.

  Reference:
    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2.
  """
  (z,) = arguments.floats({"z": z}, "n d")
  if not isinstance(labels, jax.Array | np.ndarray):
    raise TypeError(f"labels must be an array, got {type(labels).__name__}")
  labels = jnp.asarray(labels)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise TypeError(f"labels must have an integer dtype, got {labels.dtype}")
  if labels.shape != z.shape[:1]:
    raise ValueError(f"labels must be [n] for z {z.shape}, got {labels.shape}")
  (t,) = arguments.positive(z, temperature=temperature)
  w = arguments.weights(weights, len(z), z)
  return with_layout(_supervised_contrastive, (z, labels, w), (t,), **options)


def _supervised_contrastive(
  layout: Layout,
  z: Float[Array, "n d"],
  labels: Int[Array, "n"],
  weights: Float[Array, "n"] | None,
  temperature: Scalar,
) -> Scalar:
  arguments.at_least(layout, 2, z=z)
  lse = _within(layout, z, temperature, layout.positions(len(z)))
  # At most one class per row: gives `jnp.unique` a static size.
  classes = layout.num_rows(len(z))
  _, numbers = jnp.unique(
    layout.all_gather(labels), return_inverse=True, size=classes
  )
  label = numbers.reshape(-1)[layout.positions(len(z))]
  sum_by_class = functools.partial(
    jax.ops.segment_sum, segment_ids=label, num_segments=classes
  )
  normed = upcast(z) * inverse_norms(z)[:, None]
  members = layout.sum(sum_by_class(jnp.ones_like(lse)))[label]
  kin = layout.sum(sum_by_class(normed))[label] - normed
  others = jnp.maximum(members - 1, 1)
  positives = dots(normed, kin) / others / temperature
  labelled = (members > 1) & (labels >= 0)
  return layout.mean(jnp.where(labelled, lse - positives, 0), weights)
