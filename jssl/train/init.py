"""A run's compiled functions, and where its arrays lie."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jssl import checkpoint, mesh
from jssl.config import schema
from jssl.config.build import Run
from jssl.data import pipeline
from jssl.diagnostics.batch import NAMES
from jssl.train.state import TrainState, init_state
from jssl.train.step import make_train_step
from jssl.typing import PyTree


def _abstract(shapes: PyTree, shardings: PyTree) -> PyTree:
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


class Program:
  """What a run computes, compiled for its mesh; making it allocates nothing.

  Attributes:
    batch_sharding: of the images and labels of a batch.
    abstract_state: shapes, dtypes and shardings of the state.
    init: `() -> state`, the first one of the run, born where it belongs.
    step: `(state, batch) -> (state, metrics)`; the state is donated.
    metrics: names of what `step` gives at each step.
    measures: names of what it gives at steps that are logged only.
  """

  def __init__(self, run: Run):
    """Traces everything that has to fit together."""
    backbone, objective = run.backbone, run.objective

    def init() -> TrainState:
      return init_state(
        run.config.seed,
        backbone,
        objective,
        run.optimizer,
        run.image_shape,
        run.config.head,
      )

    state = jax.eval_shape(init)
    shardings = mesh.state_sharding(run.mesh, state)
    self.batch_sharding: NamedSharding = mesh.batch_sharding(run.mesh)
    self.abstract_state: TrainState = _abstract(state, shardings)
    self.init = jax.jit(init, out_shardings=shardings)
    step = make_train_step(
      backbone,
      objective,
      run.config.augment,
      run.optimizer,
      head=run.config.head,
      chunks=run.config.train.chunks,
      shards=run.mesh.size,
      measured=(
        partial(run.config.log.should_log, total_steps=run.config.train.steps)
        if run.config.log.diagnostics
        else None
      ),
    )
    self.measures: tuple[str, ...] = NAMES if run.config.log.diagnostics else ()
    b = run.config.data.batch_size
    # Of the size that the backbone sees; the names don't depend on it.
    batch = {
      "image": jax.ShapeDtypeStruct((b, *run.image_shape), jnp.uint8),
      "label": jax.ShapeDtypeStruct((b,), jnp.int32),
    }
    names = jax.eval_shape(step, state, batch)[1]
    self.metrics: tuple[str, ...] = tuple(
      name for name in names if name not in self.measures
    )
    self.step = jax.jit(
      step,
      in_shardings=(shardings, self.batch_sharding),
      out_shardings=(shardings, mesh.replicated(run.mesh)),
      donate_argnums=0,
    )


def train_batches(run: Run, sharding: NamedSharding) -> pipeline.Batches:
  """Returns the batches of a run, see `jssl.data.pipeline.train_batches`."""
  return pipeline.train_batches(
    run.source,
    seed=run.config.seed,
    batch_size=run.config.data.batch_size,
    sharding=sharding,
    workers=run.config.data.workers,
    prefetch_batches=run.config.data.prefetch_batches,
    order=run.config.order,
    total_steps=run.config.train.steps,
  )


def checkpoint_items(state: TrainState) -> dict[str, PyTree]:
  """Returns a state as the parts of a checkpoint.

  The backbone is a part by itself, for who probes or exports it, and so is
  the objective, for who continues with its heads.
  """
  return {
    "backbone": state.backbone,
    "objective": {"params": state.head_params, "state": state.objective},
    "training": {
      "step": state.step,
      "rng": state.rng,
      "teacher": state.teacher,
      "opt_state": state.opt_state,
      "head_opt_state": state.head_opt_state,
    },
  }


def from_checkpoint_items(items: dict[str, PyTree]) -> TrainState:
  """The inverse of `checkpoint_items`; what else is there is left."""
  return TrainState(
    backbone=items["backbone"],
    head_params=items["objective"]["params"],
    objective=items["objective"]["state"],
    **items["training"],
  )


def first_state(program: Program, init_from: schema.InitFrom) -> TrainState:
  """Returns the state in which a run begins.

  Raises:
    ValueError: `init_from` names a checkpoint that isn't there.
    CheckpointError: it is damaged, or of another model or objective.
  """
  state = program.init()
  if not init_from.workdir:
    return state
  steps = checkpoint.steps(init_from.workdir)
  step = steps[-1] if init_from.step == -1 and steps else init_from.step
  if step not in steps:
    raise ValueError(
      f"init_from.workdir={init_from.workdir} has no checkpoint of "
      f"init_from.step={init_from.step}; it has {steps}"
    )
  wanted = ["backbone", "objective"] if init_from.heads else ["backbone"]
  abstract = checkpoint_items(program.abstract_state)
  restored = checkpoint.restore(
    init_from.workdir, step, {name: abstract[name] for name in wanted}
  )
  if state.teacher:
    # A copy: the step donates both.
    teacher = jax.tree.map(jnp.copy, restored["backbone"])
    state = state._replace(teacher=teacher)
  return from_checkpoint_items({**checkpoint_items(state), **restored})
