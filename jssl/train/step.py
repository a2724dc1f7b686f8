"""One step of training, for every method: a pure function."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jssl import rng, tree
from jssl.augment import Augment
from jssl.diagnostics.batch import batch_measures
from jssl.models.backbone import Backbone
from jssl.objectives.base import Aux, Features, Objective
from jssl.optim.bilevel import HeadUpdate, solve_inner
from jssl.train.chunked import (
  Hidden,
  encode_with_pullback,
  make_encoder,
  rows_of,
  split,
)
from jssl.train.state import TrainState, trained
from jssl.typing import Batch, Metrics, PyTree, Scalar, Step

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


class _Head(NamedTuple):
  """What a loss leaves of the head."""

  params: PyTree
  opt_state: PyTree
  aux: Aux


def make_train_step(
  backbone: Backbone,
  objective: Objective,
  augment: Augment,
  optimizer: optax.GradientTransformation,
  *,
  head: HeadUpdate = HeadUpdate(),
  chunks: int = 1,
  shards: int = 1,
  measured: Callable[[Step], Array] | None = None,
) -> TrainStep:
  """Returns `(state, batch) -> (state, metrics)`, to be jitted by the loop.

  Everything is on global arrays: the batch is the global batch, batch
  statistics and losses are over all of it, and the compiler splits the work
  as the shardings of the arguments say.

  Args:
    backbone: the encoder.
    objective: the method.
    augment: how views are made.
    optimizer: of `trained(...)`.
    head: how the objective's head is learned.
    chunks: in which the backbone sees a batch, see `jssl.train.chunked`.
    shards: devices that a batch lies on.
    measured: steps, the first being 1, whose metrics have what
      `jssl.diagnostics.batch` measures of the student's large views; at other
      steps these are 0. None: no step's have them.
  """
  encoder = make_encoder(backbone, augment, objective.num_views)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    step = state.step
    rows = rows_of(batch["image"], state.rng, step)
    encoded, pullback = encode_with_pullback(
      encoder, state.backbone, state.teacher, rows, chunks=chunks, shards=shards
    )
    key = rng.stream(state.rng, "objective", step)

    def objective_loss(
      head_params: PyTree, features: Features
    ) -> tuple[Scalar, Aux]:
      return objective.loss(
        head_params, state.objective, features, key=key, step=step
      )

    def total(h: Hidden, head_params: PyTree) -> tuple[Scalar, _Head]:
      features = Features(h, encoded.teacher, batch["label"])
      if head.update == "joint":
        loss, aux = objective_loss(head_params, features)
        return loss, _Head(head_params, (), aux)
      inner = outer = features
      if head.batch == "fresh":
        inner, outer = _halves(features, shards)
      response, opt_state, rest = solve_inner(
        lambda phi, h: objective_loss(phi, inner._replace(student=h))[0],
        head_params,
        state.head_opt_state,
        inner.student,
        head,
      )
      loss, aux = objective_loss(response, outer)
      metrics = {**aux.metrics, "head_gradient_norm": rest}
      return loss, _Head(response, opt_state, aux._replace(metrics=metrics))

    (loss, after), (h_grads, head_grads) = jax.value_and_grad(
      total, argnums=(0, 1), has_aux=True
    )(encoded.student, state.head_params)
    joint = head.update == "joint"
    grads = {
      "backbone": pullback(h_grads),
      "head": head_grads if joint else {},
    }
    params = trained(state.backbone, state.head_params if joint else {})
    updates, opt_state = optimizer.update(grads, state.opt_state, params)
    params = optax.apply_updates(params, updates)

    momentum = objective.teacher_momentum(step)
    teacher = encoded.teacher_backbone
    if momentum is not None:
      average = tree.ema(teacher["params"], params["backbone"], momentum)
      teacher = {**teacher, "params": average}
    head_params, remembered = objective.update(
      params["head"] if joint else after.params,
      state.objective,
      after.aux.carry,
      step=step,
    )
    metrics = {
      "loss": loss,
      "gradient_norm": tree.norm(grads),
      **after.aux.metrics,
    }
    if measured is not None:
      metrics |= _measures(measured(step + 1), encoded.student[0])
    return TrainState(
      step=step + 1,
      rng=state.rng,
      backbone={**encoded.backbone, "params": params["backbone"]},
      teacher=teacher,
      head_params=head_params,
      objective=remembered,
      opt_state=opt_state,
      head_opt_state=after.opt_state,
    ), metrics

  return train_step


def _measures(wanted: Array, h: Float[Array, "v b d"]) -> Metrics:
  """Measures features if it is wanted; else it costs nothing, and all are 0."""
  shapes = jax.eval_shape(batch_measures, h)

  def nothing(h: Float[Array, "v b d"]) -> Metrics:
    del h
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  return jax.lax.cond(wanted, batch_measures, nothing, h)


def _halves(features: Features, shards: int) -> list[Features]:
  """Cuts a batch in two, each with half of every device's rows."""
  student, teacher = split(
    (features.student, features.teacher), 2, shards, axis=1
  )
  labels = split(features.labels, 2, shards)
  return [
    Features(*jax.tree.map(lambda x, i=i: x[i], (student, teacher, labels)))
    for i in range(2)
  ]
