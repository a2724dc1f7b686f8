"""One training step of any objective: a pure function."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jssl import rng, tree
from jssl.augment import Augment
from jssl.diagnostics.batch import batch_measures
from jssl.models.backbone import Backbone
from jssl.objectives.base import Aux, Features, Objective
from jssl.objectives.encode import (
  Hidden,
  make_encoder,
  rows_of,
  statistics_of,
)
from jssl.optim.bilevel import HeadStrategy
from jssl.train.chunked import encode_with_pullback, split
from jssl.train.state import TrainState, outer_params
from jssl.typing import Batch, Metrics, PyTree, Scalar, Step, Variables

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
  backbone: Backbone,
  objective: Objective,
  augment: Augment,
  optimizer: optax.GradientTransformation,
  *,
  head: HeadStrategy = HeadStrategy(),
  chunks: int = 1,
  shards: int = 1,
  measured: Callable[[Step], Array] | None = None,
) -> TrainStep:
  """Returns `(state, batch) -> (state, metrics)`, for the caller to jit.

  All arrays are global: batch statistics and losses are over the global batch,
  and the compiler distributes the work by the shardings of the arguments.

  Args:
    backbone: the encoder.
    objective: the method.
    augment: the augmentation.
    optimizer: optimizer of `outer_params(...)`.
    head: strategy to train the objective's head.
    chunks: number of chunks of a batch, see `jssl.train.chunked`.
    shards: number of devices that a batch is split over.
    measured: `step -> bool`, with steps counted from 1: True if the metrics
      include `jssl.diagnostics.batch` of the student's large views. They are 0
      at other steps. None leaves them out.
  """
  encoder = make_encoder(backbone, augment, objective)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    step = state.step
    rows = rows_of(batch["image"], state.rng, step, mixed=augment.mixes)
    teachers = tuple(v for v in (state.teacher, state.anchor) if v)
    encoded, pullback = encode_with_pullback(
      encoder, state.backbone, teachers, rows, chunks=chunks, shards=shards
    )
    key = rng.stream(state.rng, "objective", step)

    def loss_fn(
      head_params: PyTree, student: Hidden, half: int | None = None
    ) -> tuple[Scalar, Aux]:
      features = encoded.features._replace(student=student)
      features = features.with_labels(batch["label"])
      if half is not None:
        features = _half(features, half, shards)
      return objective.loss(
        head_params, state.objective, features, key=key, step=step
      )

    loss, feature_grads, updated = head.gradients(
      loss_fn, state.head_params, state.head_opt_state, encoded.features.student
    )
    grads = {"backbone": pullback(feature_grads), "head": updated.gradients}
    params = outer_params(state.backbone, state.head_params, head)
    updates, opt_state = optimizer.update(grads, state.opt_state, params)
    params = optax.apply_updates(params, updates)

    teacher: Variables = {}
    momentum = objective.teacher_momentum(step)
    if momentum is not None:
      average = tree.ema(state.teacher["params"], params["backbone"], momentum)
      teacher = {**encoded.teacher_statistics[0], "params": average}
    anchor = state.anchor
    if anchor:
      anchored = objective.anchored(step)
      anchor = jax.tree.map(partial(jnp.where, anchored), teacher, anchor)
    # Each head parameter is updated by the run's optimizer or by the head's.
    head_params, objective_state = objective.update(
      {**params["head"], **updated.params},
      state.objective,
      updated.aux.carry,
      step=step,
    )
    metrics = {
      "loss": loss,
      "gradient_norm": tree.norm(grads),
      **updated.aux.metrics,
      **updated.metrics,
    }
    if measured is not None:
      metrics |= _measures(measured(step + 1), encoded.features.pooled[0])
    # Averages over chunks would round.
    statistics = (
      statistics_of(state.backbone) if backbone.frozen else encoded.statistics
    )
    return TrainState(
      step=step + 1,
      rng=state.rng,
      backbone={**statistics, "params": params["backbone"]},
      teacher=teacher,
      anchor=anchor,
      head_params=head_params,
      objective=objective_state,
      opt_state=opt_state,
      head_opt_state=updated.opt_state,
    ), metrics

  return train_step


def _measures(due: Array, h: Float[Array, "v b d"]) -> Metrics:
  """Measures features if `due`; otherwise all values are 0, at no cost."""
  shapes = jax.eval_shape(batch_measures, h)

  def zeros(_: Array) -> Metrics:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  return jax.lax.cond(due, batch_measures, zeros, h)


def _half(features: Features, half: int, shards: int) -> Features:
  """Returns the first or second half of every device's rows."""
  views = features._replace(labels=None, partner_labels=None)
  labels = features.labels, features.partner_labels
  own, partner = split(labels, 2, shards)
  halves = split(views, 2, shards, axis=1)._replace(
    labels=own, partner_labels=partner
  )
  return jax.tree.map(lambda x: x[half], halves)
