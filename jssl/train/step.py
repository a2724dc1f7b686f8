"""One step of training, for every method: a pure function."""

from collections.abc import Callable

import jax
import optax

from jssl import rng, tree
from jssl.augment import Augment, views
from jssl.models.backbone import Backbone
from jssl.objectives.base import Features, Objective
from jssl.train.state import TrainState, trained
from jssl.typing import Batch, Key, Metrics, PyTree, Variables, Views

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def encode(
  backbone: Backbone, variables: Variables, images: Views, key: Key
) -> tuple[jax.Array, Variables]:
  """Runs the backbone once over all views: [v, b, h, w, c] to [v, b, d].

  The views of an image are kept together, so that on a mesh every device
  flattens the rows that it has.
  """
  v, b = images.shape[:2]
  flat = images.swapaxes(0, 1).reshape(b * v, *images.shape[2:])
  h, variables = backbone.apply(variables, flat, train=True, key=key)
  return h.reshape(b, v, -1).swapaxes(0, 1), variables


def make_train_step(
  backbone: Backbone,
  objective: Objective,
  augment: Augment,
  optimizer: optax.GradientTransformation,
) -> TrainStep:
  """Returns `(state, batch) -> (state, metrics)`, to be jitted by the loop.

  Everything is on global arrays: the batch is the global batch, batch
  statistics and losses are over all of it, and the compiler splits the work
  as the shardings of the arguments say.
  """

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    step = state.step
    rows = batch["image"].shape[0]
    augment_keys = rng.per_row(rng.stream(state.rng, "augment", step), rows)
    images = views(augment, augment_keys, batch["image"], objective.num_views)
    model_key = rng.stream(state.rng, "model", step)
    momentum = objective.teacher_momentum(step)

    teacher_h: tuple[jax.Array, ...] = ()
    teacher = state.teacher
    if momentum is not None:
      # Batch statistics of its own, as in the methods' official code.
      h, teacher = encode(backbone, teacher, images, model_key)
      teacher_h = (jax.lax.stop_gradient(h),)

    def loss_fn(params: PyTree) -> tuple[jax.Array, tuple]:
      trainable = {**state.backbone, "params": params["backbone"]}
      h, variables = encode(backbone, trainable, images, model_key)
      loss, aux = objective.loss(
        params["head"],
        state.objective,
        Features((h,), teacher_h, batch["label"]),
        key=rng.stream(state.rng, "objective", step),
        step=step,
      )
      return loss, (variables, aux)

    params = trained(state.backbone, state.head_params)
    (loss, (variables, aux)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      params
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, params)
    params = optax.apply_updates(params, updates)
    variables = {**variables, "params": params["backbone"]}
    if momentum is not None:
      average = tree.ema(teacher["params"], params["backbone"], momentum)
      teacher = {**teacher, "params": average}
    head_params, remembered = objective.update(
      params["head"], state.objective, aux.carry, step=step
    )
    metrics = {"loss": loss, "gradient_norm": tree.norm(grads), **aux.metrics}
    return TrainState(
      step=step + 1,
      rng=state.rng,
      backbone=variables,
      teacher=teacher,
      head_params=head_params,
      objective=remembered,
      opt_state=opt_state,
    ), metrics

  return train_step
