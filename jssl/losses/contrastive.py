"""Losses that tell the other view of an image from the views of all others."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jssl.losses import arguments
from jssl.losses.ops import similarity
from jssl.losses.ops.autodiff import Implementation
from jssl.losses.ops.layout import AxisNames, Layout, run
from jssl.losses.rows import cosines, dots, interleaved, inverse_norms, wide
from jssl.typing import Scalar


def _within(
  layout: Layout,
  z: Float[Array, "n d"],
  temperature: Scalar,
  ids: Int[Array, "n"],
  implementation: Implementation | None,
) -> Float[Array, "n"]:
  """Returns log sum_k exp(c(i, k) / T), over the k of another id."""
  # Half of the temperature on each side: the matrix is symmetric.
  scale = inverse_norms(z) * jax.lax.rsqrt(temperature)
  rows = similarity.side(z, scale, ids=ids)
  return similarity.log_sum_exp(
    layout, rows, None, implementation=implementation
  )


def nt_xent(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  temperature: float | Scalar,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """The normalised temperature-scaled cross-entropy of SimCLR.

  Each of the 2b rows must find its image's other view among the 2b - 1 others:

      -1/2b sum_i log exp(c(i, i')/T) / sum_{k != i} exp(c(i, k)/T)

  with c the cosine. Rows are normalised here. At collapse (all rows equal) it
  is log(2b - 1); with positives at cosine 1 and orthogonal negatives,
  log(1 + (2b - 2) exp(-1/T)), a little above the least.

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = nt_xent(z1, z2, temperature=0.1)

  Args:
    z1: projections of the first view, [b, d].
    z2: projections of the second view of the same images, [b, d].
    temperature: T, positive.
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The mean over 2b rows, float32 or wider.

  Raises:
    ValueError: shapes differ or are not [b, d], b < 2, or temperature <= 0.
    TypeError: an input is not of a floating dtype.

  Reference:
    Chen et al., "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020, eq. 1.
  """
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  (t,) = arguments.positive(z1, temperature=temperature)
  loss = functools.partial(_nt_xent, implementation=implementation)
  return run(
    loss, z1, z2, t, axis_name=axis_name, batch_axes=batch_axes, split=2
  )


def _nt_xent(
  layout: Layout,
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  temperature: Scalar,
  implementation: Implementation | None,
) -> Scalar:
  arguments.at_least(layout, 2, z1=z1)
  ids = layout.positions(2 * len(z1))
  lse = _within(layout, interleaved(z1, z2), temperature, ids, implementation)
  return layout.mean(lse) - layout.mean(cosines(z1, z2)) / temperature


def dcl(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  temperature: float | Scalar,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """The decoupled contrastive loss: NT-Xent without the positive below.

      -1/2b sum_i [c(i, i')/T - log sum_{k != i, i'} exp(c(i, k)/T)]

  Rows are normalised here. At collapse it is log(2b - 2); with positives at
  cosine 1 and orthogonal negatives, log(2b - 2) - 1/T.

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = dcl(z1, z2, temperature=0.1)

  Args:
    z1: projections of the first view, [b, d].
    z2: projections of the second view of the same images, [b, d].
    temperature: T, positive.
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The mean over 2b rows, float32 or wider.

  Raises:
    ValueError: shapes differ or are not [b, d], b < 2, or temperature <= 0.
    TypeError: an input is not of a floating dtype.

  Reference:
    Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, eq. 6.
  """
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  (t,) = arguments.positive(z1, temperature=temperature)
  loss = functools.partial(_dcl, implementation=implementation)
  return run(
    loss, z1, z2, t, axis_name=axis_name, batch_axes=batch_axes, split=2
  )


def _dcl(
  layout: Layout,
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  temperature: Scalar,
  implementation: Implementation | None,
) -> Scalar:
  arguments.at_least(layout, 2, z1=z1)
  # Both views of an image have one id, and so are masked for each other.
  ids = layout.positions(2 * len(z1)) // 2
  lse = _within(layout, interleaved(z1, z2), temperature, ids, implementation)
  return layout.mean(lse) - layout.mean(cosines(z1, z2)) / temperature


def info_nce(
  queries: Float[Array, "b d"],
  keys: Float[Array, "b d"],
  *,
  temperature: float | Scalar,
  negatives: Float[Array, "q d"] | None = None,
  symmetric: bool = False,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """InfoNCE: each query must find its key among all keys, or in a queue.

      -1/b sum_i log exp(c(q_i, k_i)/T) / sum_j exp(c(q_i, k_j)/T)

  Rows are normalised here. With `negatives`, those and the positive alone make
  up the sum (MoCo v2): other keys of the batch don't count. Gradients flow into
  everything; a teacher's keys are the caller's to stop. At collapse it is
  log b, or log(1 + q) with a queue.

  Example:
    >>> import jax
    >>> x, y = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = info_nce(x, y, temperature=0.1, symmetric=True)

  Args:
    queries: [b, d].
    keys: of the same images, [b, d].
    temperature: T, positive.
    negatives: a queue, [q, d]; on a mesh, the same on all devices.
    symmetric: the mean of this and of the loss with queries and keys swapped.
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The mean over b rows, float32 or wider. MoCo v3 multiplies by 2T.

  Raises:
    ValueError: shapes differ or are not [b, d], b < 2 without a queue, a queue
      of another width, or temperature <= 0.
    TypeError: an input is not of a floating dtype.

  Reference:
    van den Oord et al., "Representation Learning with Contrastive Predictive
    Coding", 2018, eq. 4; He et al., "Momentum Contrast", CVPR 2020, eq. 1.
  """
  queries, keys = arguments.same_shape("b d", queries=queries, keys=keys)
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
  loss = functools.partial(
    _info_nce, symmetric=symmetric, implementation=implementation
  )
  return run(
    loss,
    queries,
    keys,
    t,
    *queue,
    axis_name=axis_name,
    batch_axes=batch_axes,
    split=2,
  )


def _info_nce(
  layout: Layout,
  queries: Float[Array, "b d"],
  keys: Float[Array, "b d"],
  temperature: Scalar,
  negatives: Float[Array, "q d"] | None = None,
  *,
  symmetric: bool,
  implementation: Implementation | None,
) -> Scalar:
  positives = cosines(queries, keys) / temperature

  def rows(x: Float[Array, "b d"]) -> similarity.Side:
    return similarity.side(x, inverse_norms(x) / temperature, ids=0)

  def columns(x: Float[Array, "m d"]) -> similarity.Side:
    return similarity.side(x, inverse_norms(x), ids=1)

  denominators: Sequence[Array]
  if negatives is not None:
    queue = columns(layout.per_device(negatives))
    lse = functools.partial(
      similarity.log_sum_exp,
      layout,
      columns=queue,
      shared=True,
      implementation=implementation,
    )
    askers = (queries, keys) if symmetric else (queries,)
    denominators = [jnp.logaddexp(positives, lse(rows(x))) for x in askers]
  else:
    arguments.at_least(layout, 2, queries=queries)
    sides = rows(queries), columns(keys)
    if symmetric:
      denominators = similarity.log_sum_exps(
        layout, *sides, implementation=implementation
      )
    else:
      denominators = [
        similarity.log_sum_exp(layout, *sides, implementation=implementation)
      ]
  mean = sum(map(layout.mean, denominators)) / len(denominators)
  return mean - layout.mean(positives)


def cissl(
  student: Float[Array, "2b d"],
  teacher: Float[Array, "2b d"],
  *,
  temperature: float | Scalar,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """Contrastive idealised self-supervised learning.

  Each row of the student must find both views of its image among all 2b rows
  of the teacher, its own included:

      -1/2b sum_i 1/2 [log q_i(i) + log q_i(i')],  q_i = softmax_k(c(i, k)/T)

  Rows are normalised here. No stop-gradient: the teacher is a head. Collapse is
  log 2b, and log 2 the limit of sharp features.

  Example:
    >>> import jax
    >>> s, t = jax.random.normal(jax.random.key(0), (2, 16, 8))
    >>> loss = cissl(s, t, temperature=0.07)

  Args:
    student: both views, stacked: rows i and i + b are one image, [2b, d].
      Inside of `shard_map` each device has both views of its images.
    teacher: the same rows through the other head, [2b, d].
    temperature: T, positive.
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The mean over 2b rows, float32 or wider.

  Raises:
    ValueError: shapes differ or are not [2b, d], or temperature <= 0.
    TypeError: an input is not of a floating dtype.

  Reference:
    Dubois et al., "Improving Self-Supervised Learning by Characterizing
    Idealized Representations", NeurIPS 2022, section 4.2 and official code.
  """
  student, teacher = arguments.same_shape(
    "2b d", student=student, teacher=teacher
  )
  if len(student) % 2:
    raise ValueError(
      f"student, teacher: two views are stacked, got {len(student)} rows"
    )
  (t,) = arguments.positive(student, temperature=temperature)
  loss = functools.partial(_cissl, implementation=implementation)
  return run(
    loss,
    student,
    teacher,
    t,
    axis_name=axis_name,
    batch_axes=batch_axes,
    split=2,
  )


def _cissl(
  layout: Layout,
  student: Float[Array, "2b d"],
  teacher: Float[Array, "2b d"],
  temperature: Scalar,
  implementation: Implementation | None,
) -> Scalar:
  lse = similarity.log_sum_exp(
    layout,
    similarity.side(student, inverse_norms(student) / temperature, ids=0),
    similarity.side(teacher, inverse_norms(teacher), ids=1),
    implementation=implementation,
  )
  other = jnp.roll(teacher, len(teacher) // 2, axis=0)
  found = (cosines(student, teacher) + cosines(student, other)) / 2
  return layout.mean(lse) - layout.mean(found) / temperature


def supervised_contrastive(
  z: Float[Array, "n d"],
  labels: Int[Array, "n"],
  *,
  temperature: float | Scalar,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """The supervised contrastive loss: all rows of a class are positives.

      -1/n sum_i 1/|P(i)| sum_{p in P(i)} log exp(c(i, p)/T) /
                                              sum_{k != i} exp(c(i, k)/T)

  with P(i) the other rows of i's label (the paper's L_out). Rows are normalised
  here. A row without positives counts as 0, as in the official code. With the
  image as label it is NT-Xent. At collapse it is log(n - 1).

  Positives are found through sums of the classes, which take as much memory on
  each device as the features of the whole batch in float32.

  Example:
    >>> import jax
    >>> z = jax.random.normal(jax.random.key(0), (8, 16))
    >>> labels = jax.numpy.arange(8) % 3
    >>> loss = supervised_contrastive(z, labels, temperature=0.1)

  Args:
    z: projections of all views, [n, d].
    labels: of each row, any integers, [n].
    temperature: T, positive.
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The mean over n rows, float32 or wider.

  Raises:
    ValueError: `z` is not [n, d], `labels` not [n], n < 2, or temperature <= 0.
    TypeError: `z` is not of a floating dtype, `labels` not of an integer one.

  Reference:
    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2.
  """
  (z,) = arguments.floats({"z": z}, "n d")
  if not isinstance(labels, jax.Array | np.ndarray):
    raise TypeError(f"labels must be an array, got {type(labels).__name__}")
  labels = jnp.asarray(labels)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise TypeError(f"labels must be of an integer dtype, got {labels.dtype}")
  if labels.shape != z.shape[:1]:
    raise ValueError(f"labels must be [n], z {z.shape}; got {labels.shape}")
  (t,) = arguments.positive(z, temperature=temperature)
  loss = functools.partial(
    _supervised_contrastive, implementation=implementation
  )
  return run(
    loss, z, labels, t, axis_name=axis_name, batch_axes=batch_axes, split=2
  )


def _supervised_contrastive(
  layout: Layout,
  z: Float[Array, "n d"],
  labels: Int[Array, "n"],
  temperature: Scalar,
  implementation: Implementation | None,
) -> Scalar:
  arguments.at_least(layout, 2, z=z)
  lse = _within(
    layout, z, temperature, layout.positions(len(z)), implementation
  )
  # Of the labels there are, at most one a row: their number is static.
  classes = layout.rows(len(z))
  _, numbers = jnp.unique(
    layout.gather(labels), return_inverse=True, size=classes
  )
  label = numbers.reshape(-1)[layout.positions(len(z))]
  sum_by_class = functools.partial(
    jax.ops.segment_sum, segment_ids=label, num_segments=classes
  )
  normed = wide(z) * inverse_norms(z)[:, None]
  members = layout.sum(sum_by_class(jnp.ones_like(lse)))[label]
  kin = layout.sum(sum_by_class(normed))[label] - normed
  others = jnp.maximum(members - 1, 1)
  positives = dots(normed, kin) / others / temperature
  return layout.mean(jnp.where(members > 1, lse - positives, 0))
