"""Self-distillation losses: a student predicts its teacher's assignments."""

import warnings
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jssl.losses import arguments
from jssl.losses.assignment import (
  columns_of,
  cross_entropy,
  log_sum_exp,
  mean_prototypes,
  rows_of,
)
from jssl.losses.ops import prototypes, similarity
from jssl.losses.ops.layout import AxisNames, Layout, Options, with_layout
from jssl.losses.rows import upcast
from jssl.typing import Scalar


def _views(student: Array, teacher: Array, least: int) -> tuple[Array, Array]:
  """Validates views and moves the batch, which is sharded, to the front."""
  (student,) = arguments.floats({"student": student}, "v b d")
  (teacher,) = arguments.floats({"teacher": teacher}, "u b d")
  u, v = len(teacher), len(student)
  if student.shape[1] != teacher.shape[1]:
    raise ValueError(
      f"student {student.shape} [v, b, d] and teacher {teacher.shape} "
      "[u, b, d] must have the same number b of images"
    )
  if not least <= u <= v or v < 2:
    raise ValueError(
      "the teacher sees the first u of the student's v views: expected "
      f"{least} <= u <= v and v >= 2, got student [v={v}, ...] and teacher "
      f"[u={u}, ...]"
    )
  return jnp.moveaxis(student, 0, 1), jnp.moveaxis(teacher, 0, 1)


def dino(
  student: Float[Array, "v b d"],
  teacher: Float[Array, "u b e"],
  student_prototypes: Float[Array, "k d"],
  teacher_prototypes: Float[Array, "k e"],
  center: Float[Array, "k"],
  *,
  student_temperature: float | Scalar,
  teacher_temperature: float | Scalar,
  weights: Float[Array, "b"] | None = None,
  **options: Unpack[Options],
) -> Scalar:
  """DINO: cross-entropy between the centred teacher and the student.

      mean over a < u, c < v, a != c of
      1/b sum_i CE(softmax((t_a - center)/T_t), softmax(s_c/T_s))

  with logits t, s = features times prototypes, neither of which is normalised
  here. No gradient flows to the teacher's features, prototypes and center. The
  loss is log k for a uniform student and 0 if both agree on one prototype.

  Example:
    >>> import jax
    >>> s, t = jax.random.normal(jax.random.key(0), (2, 2, 8, 16))
    >>> w = jax.random.normal(jax.random.key(1), (32, 16))
    >>> loss = dino(
    ...   s, t, w, w, jax.numpy.zeros(32),
    ...   student_temperature=0.1, teacher_temperature=0.04,
    ... )

  Args:
    student: features before the last layer, large crops first, [v, b, d].
    teacher: features of the teacher, of the first u views, [u, b, e].
    student_prototypes: last layer of the student, [k, d].
    teacher_prototypes: last layer of the teacher, [k, e].
    center: center of the teacher's logits, [k]; see `dino_center`.
    student_temperature: positive temperature T_s; 0.1 in the paper.
    teacher_temperature: positive temperature T_t; 0.04 to 0.07 in the paper.
    weights: weight of each image in the mean, [b]; see `jssl.losses`.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The mean over images and pairs of views, float32 or wider.

  Raises:
    ValueError: if shapes don't match, u > v, v < 2, or a temperature <= 0.

  Reference:
    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers",
    ICCV 2021, eq. 3 and algorithm 1.
  """
  student, teacher = _views(student, teacher, 1)
  checked = arguments.assignments(
    student,
    teacher,
    student_prototypes,
    teacher_prototypes,
    center,
    student_temperature=student_temperature,
    teacher_temperature=teacher_temperature,
  )
  w = arguments.weights(weights, len(student), student)
  return with_layout(
    _dino, (*checked.features, w), checked.replicated, **options
  )


def _dino(
  layout: Layout,
  student: Float[Array, "b v d"],
  teacher: Float[Array, "b u e"],
  weights: Float[Array, "b"] | None,
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
  return cross_entropy(layout, mean, student, lse, student_temperature, weights)


def dino_center(
  teacher: Float[Array, "u b e"],
  teacher_prototypes: Float[Array, "k e"],
  *,
  weights: Bool[Array, "u b"] | Float[Array, "u b"] | None = None,
  axis_name: AxisNames | None = None,
) -> Float[Array, "k"]:
  """Returns the mean of the teacher's logits, to update DINO's center.

  With weights it is the exact weighted mean over the global batch. The official
  code of DINOv2 averages the means over the hidden tokens of each device,
  whatever their number.

  Args:
    teacher: features before the last layer, [u, b, e].
    teacher_prototypes: last layer, [k, e].
    weights: weight of each row, or True for rows that count, [u, b]; the mean
      is 0 if all are 0.
    axis_name: see `jssl.losses`.

  Returns:
    The mean, [k], float32 or wider. DINO then updates
    center <- m center + (1 - m) mean.

  Raises:
    ValueError: if shapes don't match.

  Reference:
    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers",
    ICCV 2021, eq. 4.
  """
  (teacher,) = arguments.floats({"teacher": teacher}, "u b d")
  (matrix,) = arguments.prototypes(
    {"teacher": teacher}, teacher_prototypes=teacher_prototypes
  )
  if weights is not None:
    weights = arguments.mask(
      "weights", weights, teacher.shape[:2], "u b", teacher
    ).T
  by_image = jnp.moveaxis(teacher, 0, 1)
  return with_layout(
    _dino_center, (by_image, weights), (matrix,), axis_name=axis_name
  )


def _dino_center(
  layout: Layout,
  teacher: Float[Array, "b u e"],
  weights: Float[Array, "b u"] | None,
  matrix: Float[Array, "k e"],
) -> Float[Array, "k"]:
  teacher = upcast(teacher)
  if weights is None:
    mean = layout.mean(jnp.mean(teacher, axis=1))
  else:
    rows = teacher.reshape(-1, teacher.shape[-1])
    mean = layout.mean(rows, weights.reshape(-1))
  return jnp.matmul(upcast(matrix), mean, precision=jax.lax.Precision.HIGHEST)


class DISSLTerms(NamedTuple):
  """Unweighted terms of DISSL, with cross-entropy CE and entropy H.

  Attributes:
    distillation: CE(t_a, s_c), averaged over pairs of different views.
    marginal_entropy: H[batch mean of t_a], averaged over teacher views.
    invariance: CE(t_a, t_c), averaged over pairs of different teacher views.
  """

  distillation: Scalar
  marginal_entropy: Scalar
  invariance: Scalar


def dissl_terms(
  student: Float[Array, "v b d"],
  teacher: Float[Array, "u b e"],
  student_prototypes: Float[Array, "k d"],
  teacher_prototypes: Float[Array, "k e"],
  *,
  student_temperature: float | Scalar,
  teacher_temperature: float | Scalar,
  **options: Unpack[Options],
) -> DISSLTerms:
  """Returns the unweighted terms of `dissl`."""
  student, teacher = _views(student, teacher, 2)
  checked = arguments.assignments(
    student,
    teacher,
    student_prototypes,
    teacher_prototypes,
    student_temperature=student_temperature,
    teacher_temperature=teacher_temperature,
  )
  return with_layout(
    _dissl_terms, checked.features, checked.replicated, **options
  )


def _dissl_terms(
  layout: Layout,
  student: Float[Array, "b v d"],
  teacher: Float[Array, "b u e"],
  student_prototypes: Float[Array, "k d"],
  teacher_prototypes: Float[Array, "k e"],
  student_temperature: Scalar,
  teacher_temperature: Scalar,
) -> DISSLTerms:
  ours, theirs = layout.as_varying((student_prototypes, teacher_prototypes))
  seen = prototypes.attend(
    layout,
    rows_of(teacher, teacher_temperature),
    columns_of(theirs),
    jnp.concatenate([ours, theirs], axis=1),
  )
  b, u, _ = teacher.shape
  lse = seen.lse.reshape(b, u)
  mean = seen.mean.reshape(b, u, -1)
  entropies = []
  for view in range(u):
    # log p_k = log 1/b sum_i exp(t_ik - lse_i), a column log-sum-exp.
    _, columns = similarity.log_sum_exps(
      layout,
      rows_of(
        teacher[:, view : view + 1],
        teacher_temperature,
        -lse[:, view : view + 1],
      ),
      columns_of(theirs),
      replicated=True,
    )
    log_p = columns - jnp.log(layout.num_rows(b))
    entropies.append(-jnp.sum(jnp.exp(log_p) * log_p))
  student_lse = log_sum_exp(layout, student, ours, student_temperature)
  to_student, to_teacher = jnp.split(mean, [ours.shape[1]], axis=2)
  return DISSLTerms(
    cross_entropy(
      layout, to_student, student, student_lse, student_temperature
    ),
    sum(entropies[1:], entropies[0]) / u,
    cross_entropy(layout, to_teacher, teacher, lse, teacher_temperature),
  )


def dissl(
  student: Float[Array, "v b d"],
  teacher: Float[Array, "u b e"],
  student_prototypes: Float[Array, "k d"],
  teacher_prototypes: Float[Array, "k e"],
  *,
  student_temperature: float | Scalar,
  teacher_temperature: float | Scalar,
  marginal_weight: float | Scalar,
  invariance_weight: float | Scalar,
  **options: Unpack[Options],
) -> Scalar:
  """DISSL, distilling invariant self-supervised learning.

      CE(t_a, s_c) - marginal_weight H[batch mean of t_a]
                   + invariance_weight CE(t_a, t_c)

  averaged over pairs of different views, with t = softmax(teacher logits /
  T_t), s = softmax(student logits / T_s), and logits = features times
  prototypes. Gradients flow to student and teacher; the marginal entropy must
  outweigh the other terms. The loss is (1 + invariance_weight -
  marginal_weight) log k for uniform predictions, 0 at collapse, and
  -marginal_weight log min(b, k) at the optimum.

  Example:
    >>> import jax
    >>> s, t = jax.random.normal(jax.random.key(0), (2, 2, 8, 16))
    >>> w = jax.random.normal(jax.random.key(1), (32, 16))
    >>> loss = dissl(
    ...   s, t, w, w, student_temperature=1.0, teacher_temperature=0.5,
    ...   marginal_weight=2.3, invariance_weight=0.8,
    ... )

  Args:
    student: features before the last layer, large crops first, [v, b, d].
    teacher: features of the teacher's head, of the first u views, [u, b, e].
    student_prototypes: last layer of the student, [k, d].
    teacher_prototypes: last layer of the teacher, [k, e].
    student_temperature: positive temperature T_s; 1 in the official code.
    teacher_temperature: positive temperature T_t; 0.5 in the official code.
    marginal_weight: lambda in the paper; 2.3 in the official code.
    invariance_weight: beta in the paper; 0.8 in the official code, 0.6 on
      ImageNet.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The loss, float32 or wider; its terms: `dissl_terms`.

  Raises:
    ValueError: if shapes don't match, not 2 <= u <= v, or a temperature <= 0.

  Warns:
    UserWarning: if marginal_weight < 1 + invariance_weight: collapse is then
      optimal.

  Reference:
    Dubois et al., "Improving Self-Supervised Learning by Characterizing
    Idealized Representations", NeurIPS 2022, section 4.3 and official code.
  """
  (teacher,) = arguments.floats({"teacher": teacher}, "u b d")
  marginal, invariance = arguments.scalar(
    teacher,
    marginal_weight=marginal_weight,
    invariance_weight=invariance_weight,
  )
  marginal_weight, invariance_weight = map(
    arguments.unwrapped, (marginal_weight, invariance_weight)
  )
  weights = marginal_weight, invariance_weight
  traced = any(isinstance(w, jax.core.Tracer) for w in weights)
  if not traced and marginal_weight < 1 + invariance_weight:
    warnings.warn(
      f"marginal_weight={marginal_weight} < 1 + invariance_weight="
      f"{1 + invariance_weight}: collapse is optimal; raise marginal_weight",
      stacklevel=2,
    )
  terms = dissl_terms(
    student,
    teacher,
    student_prototypes,
    teacher_prototypes,
    student_temperature=student_temperature,
    teacher_temperature=teacher_temperature,
    **options,
  )
  return (
    terms.distillation
    - marginal * terms.marginal_entropy
    + invariance * terms.invariance
  )
