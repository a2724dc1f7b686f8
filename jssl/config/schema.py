"""The sections of a config that belong to no room of their own.

`augment`, `model`, `objective` and `optim` are the frozen dataclasses of their
rooms, these are the rest: a key of the config is a field here.
"""

import dataclasses
from typing import Any


def _check_positive(key: str, value: int) -> None:
  if value < 1:
    raise ValueError(f"{key}={value} must be at least 1")


@dataclasses.dataclass(frozen=True)
class Data:
  """The `data` section of a config.

  Attributes:
    name: a prepared set, or "cluttered_digits", which is embedded.
    batch_size: images of a global batch.
    image_size_px: other sizes are resized and centre-cropped to it on the host.
    data_dir: where sets are prepared; "" for TFDS's default.
    split: to pretrain on; the probe fits on it too.
    test_split: read by the probe, once a checkpoint.
    in_memory: whether to decode the whole set once, as uint8.
    workers: processes that decode; 0 decodes in a thread of this one.
    prefetch_batches: batches kept ready on the devices.
    skip_damaged: whether an image of `split` that can't be read is replaced by
      the next that can, and counted; otherwise it ends the run. One of
      `test_split` is an error in any case.
  """

  name: str
  batch_size: int
  image_size_px: int
  data_dir: str = ""
  split: str = "train"
  test_split: str = "test"
  in_memory: bool = True
  workers: int = 0
  prefetch_batches: int = 2
  skip_damaged: bool = False


@dataclasses.dataclass(frozen=True)
class Train:
  """The `train` section of a config.

  Attributes:
    steps: of the whole run.
    chunks: in which the backbone sees a batch, one after the other. The loss
      is still that of the whole batch, and the gradient is exact; activations
      are those of a chunk, and the backbone runs forward twice. With BatchNorm
      in the backbone its statistics are those of a chunk too, and the loss
      another one for it.
  """

  steps: int
  chunks: int = 1

  def __post_init__(self) -> None:
    _check_positive("train.steps", self.steps)
    _check_positive("train.chunks", self.chunks)


@dataclasses.dataclass(frozen=True)
class Log:
  """The `log` section: a line and a row every so many steps.

  Attributes:
    every_steps: and at the last one.
    diagnostics: whether a row also has what `jssl.diagnostics.batch` measures
      of the features of its step's batch.
  """

  every_steps: int = 50
  diagnostics: bool = True

  def __post_init__(self) -> None:
    _check_positive("log.every_steps", self.every_steps)

  def should_log(self, step: Any, total_steps: int) -> Any:
    """Whether `step` has a row, the first step being 1; traceable."""
    return (step % self.every_steps == 0) | (step == total_steps)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """The `checkpoint` section.

  Attributes:
    every_steps: a checkpoint is saved every so many steps, and at the end.
    keep_last: so many of the newest are kept, 2 at least: the newest may be
      one that was never finished,
    keep_every_steps: and those at multiples of this; 0 for none. The one that
      the probe found best is kept always.
  """

  every_steps: int
  keep_last: int = 2
  keep_every_steps: int = 0

  def __post_init__(self) -> None:
    _check_positive("checkpoint.every_steps", self.every_steps)
    if self.keep_last < 2:
      raise ValueError(
        f"checkpoint.keep_last={self.keep_last} must be at least 2: a run that "
        "is killed while it saves needs the one before"
      )


@dataclasses.dataclass(frozen=True)
class InitFrom:
  """The `init_from` section: another run to start from.

  Attributes:
    workdir: of that run; "" starts at random.
    step: of its checkpoint; -1 takes the last.
    heads: whether to take head parameters and the objective's state as well.
      An averaged backbone always begins as a copy of the backbone.
  """

  workdir: str = ""
  step: int = -1
  heads: bool = False


@dataclasses.dataclass(frozen=True)
class Mesh:
  """The `mesh` section: devices on each axis, see `jssl.mesh.make_mesh`."""

  data: int = -1
  fsdp: int = 1


@dataclasses.dataclass(frozen=True)
class Probe:
  """The `probe` section of a config.

  Attributes:
    probes: which are fitted, of "linear", "mlp" and "knn".
    baselines: what else is, of "pixels" and "random".
    label_fractions: of train whose labels the linear probe sees, besides all.
    seeds: splits and initialisations; mean and deviation are over them.
    validation_fraction: of train that is held out to choose hyper-parameters.
    batch_size: images of a batch of the extraction.
    memory_limit_gib: the linear probe is fitted in minibatches where features
      and logits of the whole sweep take more.
    linear_l2_values: penalties to choose from, on mean cross-entropy.
    linear_tolerance: see `linear.fit`.
    linear_max_iterations: see `linear.fit`.
    knn_neighbours: to choose from,
    knn_temperatures: with a plain vote, or one weighted by one of these.
    mlp_hidden_dims: widths between features and logits.
    mlp_learning_rates: to choose from,
    mlp_l2_values: each with each of these penalties.
    minibatch_size: of what is trained in minibatches.
    minibatch_epochs: passes over train,
    minibatch_min_steps: but at least so many minibatches.
    pixel_dims: leading singular directions of the raw pixels; 0 for all pixels.
    diagnostic_images: of train, that `--diagnostics` looks at: of so many
      classes that each has 10 or more,
    diagnostic_views: in so many views of each, 4 at least.

  Raises:
    ValueError: a number is outside its range; the message names it.
  """

  probes: tuple[str, ...] = ("linear", "knn", "mlp")
  baselines: tuple[str, ...] = ("pixels", "random")
  label_fractions: tuple[float, ...] = (0.1, 0.01)
  seeds: int = 3
  validation_fraction: float = 0.1
  batch_size: int = 512
  memory_limit_gib: float = 8.0
  linear_l2_values: tuple[float, ...] = (
    *(1e-6, 1e-5, 1e-4, 3e-4),
    *(1e-3, 1e-2, 1e-1, 1.0),
  )
  linear_tolerance: float = 1e-3
  linear_max_iterations: int = 200
  knn_neighbours: tuple[int, ...] = (5, 10, 20, 50, 100, 200)
  knn_temperatures: tuple[float, ...] = (0.02, 0.07)
  mlp_hidden_dims: tuple[int, ...] = (256,)
  mlp_learning_rates: tuple[float, ...] = (1e-3, 3e-3)
  mlp_l2_values: tuple[float, ...] = (1e-5, 1e-4)
  minibatch_size: int = 512
  minibatch_epochs: int = 10
  minibatch_min_steps: int = 500
  pixel_dims: int = 256
  diagnostic_images: int = 1000
  diagnostic_views: int = 10

  def __post_init__(self) -> None:
    for name, known in (
      ("probes", ("linear", "knn", "mlp")),
      ("baselines", ("pixels", "random")),
    ):
      unknown = set(getattr(self, name)) - set(known)
      if unknown:
        raise ValueError(
          f"probe.{name} has {sorted(unknown)}; known: {', '.join(known)}"
        )
    if not 0 < self.validation_fraction < 1:
      raise ValueError(
        f"probe.validation_fraction={self.validation_fraction} must be in "
        "(0, 1)"
      )
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.name in ("probes", "baselines", "label_fractions"):
        continue
      least = min(value, default=0) if isinstance(value, tuple) else value
      optional = field.name in ("pixel_dims", "minibatch_min_steps")
      if least < 0 or (least == 0 and not optional):
        raise ValueError(f"probe.{field.name}={value} must be positive")
    if self.diagnostic_views < 4:
      raise ValueError(
        f"probe.diagnostic_views={self.diagnostic_views} must be at least 4: "
        "some views are learned from, and others asked about"
      )
    if any(not 0 < share < 1 for share in self.label_fractions):
      raise ValueError(
        f"probe.label_fractions={self.label_fractions} must be in (0, 1)"
      )
