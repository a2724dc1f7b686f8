"""Losses on patch tokens: iBOT with either centring, and Gram anchoring."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jssl.losses import arguments
from jssl.losses.assignment import (
  log_sum_exp,
  mean_prototypes,
  sinkhorn_scales,
)
from jssl.losses.ops.layout import AxisNames, Layout, Options, with_layout
from jssl.losses.rows import dots, inverse_norms, upcast
from jssl.typing import Scalar


def ibot(
  student: Float[Array, "b n d"],
  teacher: Float[Array, "b n e"],
  student_prototypes: Float[Array, "k d"],
  teacher_prototypes: Float[Array, "k e"],
  center: Float[Array, "k"],
  *,
  hidden: Bool[Array, "b n"] | Float[Array, "b n"],
  student_temperature: float | Scalar,
  teacher_temperature: float | Scalar,
  **options: Unpack[Options],
) -> Scalar:
  """iBOT: the student predicts the teacher's assignments of hidden patches.

      1/b sum_i sum_j m_ij CE_ij / max(sum_j m_ij, 1)
      CE = CE(softmax((t - center)/T_t), softmax(s/T_s))

  with m = `hidden` and logits t, s = features times prototypes, neither of
  which is normalised here. Images without hidden tokens count as 0. No gradient
  flows to the teacher's features, prototypes and center.

  Example:
    >>> import jax
    >>> s, t = jax.random.normal(jax.random.key(0), (2, 8, 9, 16))
    >>> w = jax.random.normal(jax.random.key(1), (32, 16))
    >>> hidden = jax.random.bernoulli(jax.random.key(2), 0.3, (8, 9))
    >>> loss = ibot(
    ...   s, t, w, w, jax.numpy.zeros(32), hidden=hidden,
    ...   student_temperature=0.1, teacher_temperature=0.04,
    ... )

  Args:
    student: patch features of masked images before the last layer, [b, n, d].
    teacher: features of the same patches of unmasked images, [b, n, e].
    student_prototypes: last layer of the student, [k, d].
    teacher_prototypes: last layer of the teacher, [k, e].
    center: center of the teacher's logits, [k]; see `dino_center` and
      `sinkhorn_center`.
    hidden: True for tokens hidden from the student, or their weights, [b, n].
    student_temperature: positive temperature T_s; 0.1 in the paper.
    teacher_temperature: positive temperature T_t; 0.04 to 0.07 in the paper.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The mean over all images, float32 or wider.

  Raises:
    ValueError: if shapes don't match, or a temperature <= 0.

  Reference:
    Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", ICLR
    2022, eq. 2; Oquab et al., "DINOv2", TMLR 2024.
  """
  (student,) = arguments.floats({"student": student}, "b n d")
  (teacher,) = arguments.floats({"teacher": teacher}, "b n e")
  if student.shape[:2] != teacher.shape[:2]:
    raise ValueError(
      f"student {student.shape} [b, n, d] and teacher {teacher.shape} "
      "[b, n, e] must have the same numbers of images and tokens"
    )
  checked = arguments.assignments(
    student,
    teacher,
    student_prototypes,
    teacher_prototypes,
    center,
    student_temperature=student_temperature,
    teacher_temperature=teacher_temperature,
  )
  mask = arguments.mask("hidden", hidden, student.shape[:2], "b n", student)
  return with_layout(
    _ibot, (*checked.features, mask), checked.replicated, **options
  )


def _ibot(
  layout: Layout,
  student: Float[Array, "b n d"],
  teacher: Float[Array, "b n e"],
  hidden: Float[Array, "b n"],
  student_prototypes: Float[Array, "k d"],
  teacher_prototypes: Float[Array, "k e"],
  center: Float[Array, "k"],
  student_temperature: Scalar,
  teacher_temperature: Scalar,
) -> Scalar:
  ours = layout.as_varying(student_prototypes)
  mean = mean_prototypes(
    layout, teacher, teacher_prototypes, center, teacher_temperature, ours
  )
  lse = log_sum_exp(layout, student, ours, student_temperature)
  by_token = lse - dots(mean, student) / student_temperature
  count = jnp.maximum(hidden.sum(axis=1), 1)
  return layout.mean(jnp.sum(hidden * by_token, axis=1) / count)


def sinkhorn_center(
  teacher: Float[Array, "u b e"],
  teacher_prototypes: Float[Array, "k e"],
  *,
  temperature: float | Scalar,
  iterations: int = 3,
  weights: Bool[Array, "u b"] | Float[Array, "u b"] | None = None,
  **options: Unpack[Options],
) -> Float[Array, "k"]:
  """Returns the center that gives Sinkhorn-Knopp assignments, without gradient.

  With logits t, softmax((t - center) / temperature) is `sinkhorn` of all u b
  rows together: `dino` and `ibot` take this center or a moving average of
  `dino_center`. The mean of the center, which no softmax depends on, is 0.

  Example:
    >>> import jax
    >>> t = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> w = jax.random.normal(jax.random.key(1), (32, 16))
    >>> center = sinkhorn_center(t, w, temperature=0.07)

  Args:
    teacher: features before the last layer, [u, b, e]. The b images are
      sharded, so patch tokens [b, n, e] are passed as [n, b, e].
    teacher_prototypes: last layer, [k, e].
    temperature: positive temperature of the teacher; 0.04 to 0.07 in DINOv2.
    iterations: number of iterations, at least 1; 3 in DINOv2.
    weights: True or positive for rows that take part, [u, b]; None for all.
      The others are absent. The center is 0 if no row takes part.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The center, [k], float32 or wider.

  Raises:
    ValueError: if shapes don't match, temperature <= 0, or iterations < 1.

  Reference:
    Oquab et al., "DINOv2: Learning Robust Visual Features without
    Supervision", TMLR 2024, section 4.
  """
  (teacher,) = arguments.floats({"teacher": teacher}, "u b e")
  (matrix,) = arguments.prototypes(
    {"teacher": teacher}, teacher_prototypes=teacher_prototypes
  )
  teacher, matrix = arguments.one_width(teacher, matrix)
  (temperature,) = arguments.positive(teacher, temperature=temperature)
  arguments.count(iterations=iterations)
  used = None
  if weights is not None:
    used = arguments.mask(
      "weights", weights, teacher.shape[:2], "u b", teacher
    ).T
  return with_layout(
    _sinkhorn_center,
    (jnp.moveaxis(teacher, 0, 1), used),
    (matrix, temperature),
    iterations=iterations,
    **options,
  )


def _sinkhorn_center(
  layout: Layout,
  teacher: Float[Array, "b u e"],
  weights: Float[Array, "b u"] | None,
  matrix: Float[Array, "k e"],
  temperature: Scalar,
  *,
  iterations: int,
) -> Float[Array, "k"]:
  teacher, matrix, temperature = jax.lax.stop_gradient(
    (teacher, layout.as_varying(matrix), temperature)
  )
  used = None if weights is None else weights > 0
  scales = sinkhorn_scales(
    layout, teacher, matrix, temperature, iterations, used
  )
  if used is not None:
    # Without rows the scales are those of masked pairs.
    scales = jnp.where(layout.sum(used.sum()) > 0, scales, 0)
  return temperature * (scales.mean() - scales)


def gram_loss(
  student: Float[Array, "b n d"],
  teacher: Float[Array, "b n d"],
  *,
  axis_name: AxisNames | None = None,
) -> Scalar:
  """Gram anchoring of DINOv3: keeps the similarities of an image's patches.

      1/(b n^2) sum_i ||S_i S_i^T - G_i G_i^T||_F^2

  with the normalised tokens S of the student and G of the teacher, to which no
  gradient flows. It needs the [b, n, n] similarities.

  Example:
    >>> import jax
    >>> s, t = jax.random.normal(jax.random.key(0), (2, 8, 9, 16))
    >>> loss = gram_loss(s, t)

  Args:
    student: patch tokens after the final norm, [b, n, d].
    teacher: those of the Gram teacher, of the same patches, [b, n, d].
    axis_name: see `jssl.losses`.

  Returns:
    The mean over images and pairs of tokens, float32 or wider.

  Raises:
    ValueError: if shapes don't match.

  Reference:
    Simeoni et al., "DINOv3", 2025, section 4.
  """
  student, teacher = arguments.same_shape(
    "b n d", student=student, teacher=teacher
  )
  return with_layout(_gram_loss, (student, teacher), (), axis_name=axis_name)


def _gram_loss(
  layout: Layout,
  student: Float[Array, "b n d"],
  teacher: Float[Array, "b n d"],
) -> Scalar:
  difference = _cosines(student) - _cosines(jax.lax.stop_gradient(teacher))
  return layout.mean(jnp.mean(difference**2, axis=(1, 2)))


def _cosines(x: Float[Array, "b n d"]) -> Float[Array, "b n n"]:
  unit = upcast(x) * inverse_norms(x)[..., None]
  highest = jax.lax.Precision.HIGHEST
  return jnp.einsum("bnd,bmd->bnm", unit, unit, precision=highest)
