"""The compiled functions of a run, its first state and its checkpoint items."""

import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jssl import checkpoint, mesh, tree, weights
from jssl.checkpoint import Checkpoints
from jssl.config import parse
from jssl.config.build import Run, build_backbone, build_model
from jssl.config.schema import InitFrom
from jssl.data import pipeline
from jssl.diagnostics.batch import NAMES
from jssl.models import ViT
from jssl.runtime import distributed, files
from jssl.runtime.flops import product_flops
from jssl.train.metrics import empty_window, progress_item
from jssl.train.state import TrainState, init_state
from jssl.train.step import TrainStep, make_train_step
from jssl.typing import PyTree


class Program:
  """The jitted functions of a run on its mesh; allocates no arrays.

  Attributes:
    batch_sharding: sharding of the images and labels of a batch.
    abstract_state: shapes, dtypes and shardings of the state.
    init: `() -> state`, the initial state, sharded.
    step: `(state, batch) -> (state, metrics)`; donates the state.
    metrics: names of the metrics of every step.
    measures: names of the metrics of logged steps only.
  """

  def __init__(self, run: Run):
    """Traces the step, which checks that its parts fit together."""
    config = run.config
    init = partial(
      init_state,
      config.seed,
      run.backbone,
      run.objective,
      run.optimizer,
      run.image_shape,
      config.head,
      run.source.num_classes,
    )
    state = jax.eval_shape(init)
    shardings = mesh.state_sharding(run.mesh, state)
    self.batch_sharding: NamedSharding = mesh.batch_sharding(run.mesh)
    self.abstract_state: TrainState = jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding
      ),
      state,
      shardings,
    )
    self.init = jax.jit(init, out_shardings=shardings)
    step = make_train_step(
      run.backbone,
      run.objective,
      config.augment,
      run.optimizer,
      head=config.head,
      chunks=config.train.chunks,
      shards=run.mesh.size,
      measured=(
        partial(config.log.should_log, total_steps=config.train.steps)
        if config.log.diagnostics
        else None
      ),
    )
    self.measures: tuple[str, ...] = NAMES if config.log.diagnostics else ()
    b = config.data.batch_size
    batch = {
      "image": jax.ShapeDtypeStruct(
        (b, *run.source.image_shape), run.source.image_dtype
      ),
      "label": jax.ShapeDtypeStruct((b,), jnp.int32),
    }
    self.step = jax.jit(
      step,
      in_shardings=(shardings, self.batch_sharding),
      out_shardings=(shardings, mesh.replicated(run.mesh)),
      donate_argnums=0,
    )
    self._traced = self.step.trace(self.abstract_state, batch)
    self.metrics: tuple[str, ...] = tuple(
      name for name in self._traced.out_info[1] if name not in self.measures
    )

  def compile(self) -> TrainStep:
    """Returns the compiled step."""
    return self._traced.lower().compile()

  @property
  def product_flops(self) -> int:
    """FLOPs per device of a step's products; see `runtime.flops`."""
    devices = self.batch_sharding.mesh.size
    return product_flops(self._traced.jaxpr.jaxpr, devices)


def model_flops(run: Run, program: Program) -> int:
  """Returns the FLOPs per device and step that the method needs.

  Leaves out what rematerialisation and chunks compute a second time, as is the
  convention for model FLOPs utilisation (PaLM, arXiv:2204.02311, appendix B).
  Kernels count what they compute, logits in the backward pass included.
  """
  config = run.config
  without: dict[str, Any] = {"train.chunks": 1}
  if isinstance(config.model, ViT):
    without["model.remat"] = "none"
  plain = parse.replace(config, without)
  if plain == config:
    return program.product_flops
  backbone = build_backbone(plain)
  return Program(run._replace(config=plain, backbone=backbone)).product_flops


def describe(run: Run, program: Program, workdir: str | os.PathLike) -> str:
  """Returns the lines that a run starts with."""
  config, state = run.config, program.abstract_state
  sections = parse.to_dict(config)
  steps, b = config.train.steps, config.data.batch_size
  device = run.mesh.devices.flat[0].device_kind
  saved = files.format_bytes(
    sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  )
  keep = config.checkpoint
  interval = keep.keep_every_steps(steps)
  # The newest ones, the best one and those at multiples of the interval.
  kept = keep.keep_last + 1 + (steps // interval if interval else 0)
  kept = min(kept, -(-steps // keep.every_steps))
  return "\n".join(
    [
      f"{sections['objective']['name']} on {config.data.name}: "
      f"{len(run.source):,} images, {steps:,} steps with batch size {b:,} "
      f"({steps * b / len(run.source):.1f} epochs)",
      f"{sections['model']['name']}: {tree.size(state.backbone['params']):,} "
      f"parameters, {tree.size(state.head_params):,} of heads; "
      f"{run.mesh.size} x {device}",
      f"checkpoints: up to {kept} of {saved} in {workdir}",
    ]
  )


def train_batches(run: Run, sharding: NamedSharding) -> pipeline.Batches:
  """Returns the batches of a run, see `jssl.data.pipeline.train_batches`."""
  config = run.config
  return pipeline.train_batches(
    run.source,
    seed=config.seed,
    batch_size=config.data.batch_size,
    sharding=sharding,
    workers=config.data.workers,
    prefetch_batches=config.data.prefetch_batches,
    order=config.order,
    total_steps=config.train.steps,
  )


def checkpoint_items(state: TrainState) -> dict[str, PyTree]:
  """Returns the items of a checkpoint, each of which can be restored alone."""
  fields = state._asdict()
  return {
    "backbone": fields.pop("backbone"),
    "objective": {
      "params": fields.pop("head_params"),
      "state": fields.pop("objective"),
    },
    "training": fields,
  }


def from_checkpoint_items(items: dict[str, PyTree]) -> TrainState:
  """Inverse of `checkpoint_items`; ignores other items."""
  return TrainState(
    backbone=items["backbone"],
    head_params=items["objective"]["params"],
    objective=items["objective"]["state"],
    **items["training"],
  )


def open_checkpoints(run: Run, workdir: str | os.PathLike) -> Checkpoints:
  """Opens the checkpoints of a run.

  A resumed run must have their facts: images, and what decides random keys.
  """
  keep = run.config.checkpoint
  settings = (
    checkpoint.X64,
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
  )
  return Checkpoints(
    workdir,
    keep_last=keep.keep_last,
    keep_every_steps=keep.keep_every_steps(run.config.train.steps),
    facts={
      "images": run.source.fingerprint(),
      **{name: getattr(jax.config, name) for name in settings},
    },
  )


def restore_or_init(
  run: Run,
  program: Program,
  checkpoints: Checkpoints,
  initial: TrainState | None,
) -> tuple[int, TrainState, PyTree]:
  """Returns step, state and progress of the latest checkpoint, or of step 0.

  `initial` is the state at step 0; None if there was a checkpoint before
  the workdir was locked.
  """
  progress = progress_item(0.0, 0, empty_window(program.metrics, run.mesh))
  abstract = checkpoint_items(program.abstract_state) | {"progress": progress}
  restored = checkpoints.restore_latest(abstract)
  if restored is None:
    return 0, initial or initial_state(run, program), progress
  step, items = restored
  distributed.log_on_first(f"Resumed from checkpoint at step {step}.")
  return step, from_checkpoint_items(items), items["progress"]


def initial_state(run: Run, program: Program) -> TrainState:
  """Returns the state at step 0, with initial weights from `init_from`.

  Raises:
    ValueError: if `init_from` names a checkpoint that does not exist, or
      published weights that cannot be read or do not fit the model.
    CheckpointError: if the checkpoint is damaged, or of another model or
      objective.
  """
  init_from = run.config.init_from
  state = jax.block_until_ready(program.init())
  if init_from.weights:
    restored = _published_items(run, program, state)
  elif init_from.workdir:
    restored = _restored_items(program, init_from)
  else:
    return state
  if state.teacher:
    # A copy, because the step donates both.
    teacher = jax.tree.map(jnp.copy, restored["backbone"])
    state = state._replace(teacher=teacher)
  if state.anchor:
    anchor = jax.tree.map(jnp.copy, restored["backbone"])
    state = state._replace(anchor=anchor)
  return from_checkpoint_items({**checkpoint_items(state), **restored})


def _restored_items(program: Program, init_from: InitFrom) -> dict[str, PyTree]:
  """Restores the backbone of another run, and its heads if asked for."""
  steps = checkpoint.steps(init_from.workdir)
  step = steps[-1] if init_from.step == -1 and steps else init_from.step
  if step not in steps:
    raise ValueError(
      f"init_from.workdir={init_from.workdir} has no checkpoint of "
      f"init_from.step={init_from.step}; it has {steps}"
    )
  items = checkpoint_items(program.abstract_state)
  names = ["backbone", "objective"] if init_from.heads else ["backbone"]
  return checkpoint.restore(
    init_from.workdir, step, {name: items[name] for name in names}
  )


def _published_items(
  run: Run, program: Program, state: TrainState
) -> dict[str, PyTree]:
  """Reads published weights, one leaf at a time, as the state is sharded."""
  path = run.config.init_from.weights
  place = weights.place_like(program.abstract_state.backbone)
  try:
    model = build_model(run.config)
    variables = weights.load_for(model, run.image_shape, path, place=place)
    if run.config.init_from.channels == "new":
      if weights.Published(path).image_shape[-1] == run.image_shape[-1]:
        raise ValueError(
          'init_from.channels="new": expected "repeat", because the weights '
          f"have the {run.image_shape[-1]} channels of the images"
        )
      first = "embed" if isinstance(model, ViT) else "stem"
      own = state.backbone["params"][first]["kernel"]
      variables["params"][first]["kernel"] = own
    items: dict[str, PyTree] = {"backbone": variables}
    if run.config.init_from.heads:
      params, of_objective = weights.load_heads(
        run.objective, state.head_params, state.objective, path
      )
      items["objective"] = {"params": params, "state": of_objective}
  except (ValueError, OSError) as error:
    raise ValueError(f"init_from.weights: {error}") from error
  what = "the backbone and the heads" if len(items) > 1 else "the backbone"
  distributed.log_on_first(f"Initialised {what} from {path}.")
  return items
