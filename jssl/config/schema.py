"""Sections of a config, as frozen dataclasses.

`augment`, `model`, `objective`, `head`, `optim` and `order` are the dataclasses
of their packages; the others are here.
"""

import dataclasses
from typing import Annotated, Any, Literal

from jssl.augment import Augment
from jssl.data.order import Order
from jssl.models import MODELS, ResNet, ViT
from jssl.objectives import OBJECTIVES, Objective
from jssl.optim import Optim
from jssl.optim.bilevel import HeadStrategy
from jssl.runtime import files
from jssl.typing import (
  Interval,
  NonNegative,
  OpenFraction,
  Positive,
  Seed,
  check_fields,
)


@dataclasses.dataclass(frozen=True)
class Data:
  """The `data` section.

  Attributes:
    name: a set in `data_dir`, prepared or of Arrow, Parquet or tar files, see
      docs/input.md; or "patterns" or "cluttered_digits", which are embedded.
    batch_size: images in a global batch.
    image_size_px: side of the images; others are resized and centre-cropped on
      the host.
    data_dir: directory of the sets; "" for the default of TFDS.
    split: split to pretrain on; probes are fitted on it too.
    test_split: split that the probe evaluates on, once per checkpoint; without
      images of `split`. Not opened with `probe.probes=()`.
    in_memory: True to decode the whole set once.
    workers: number of decoding processes; 0 decodes in a thread.
    prefetch_batches: batches prefetched to the devices.
    skip_damaged: True to replace an unreadable image of `split` by the next
      readable one and count it; False ends the run. Unreadable images of
      `test_split` are always an error.
  """

  name: str
  batch_size: Positive[int]
  image_size_px: Positive[int]
  data_dir: str = ""
  split: str = "train"
  test_split: str = "test"
  in_memory: bool = True
  workers: NonNegative[int] = 0
  prefetch_batches: Positive[int] = 2
  skip_damaged: bool = False

  def __post_init__(self) -> None:
    for key in ("name", "split", "test_split"):
      if not getattr(self, key):
        raise ValueError(f'data.{key}="": expected a name')
    files.check_expanded("data.data_dir", self.data_dir)
    if _overlap(self.split, self.test_split):
      raise ValueError(
        f"data.test_split={self.test_split!r} has images of "
        f"data.split={self.split!r}: their accuracy is not a test accuracy"
      )


def _overlap(split: str, other: str) -> bool:
  """True if a part of one split, as in `train[:9%]+test`, has one of the other.

  Two parts of one split may overlap as well, which only their sizes show.
  """
  return any(
    "all" in (x, y) or x in (y, y.partition("[")[0]) or y == x.partition("[")[0]
    for x in split.split("+")
    for y in other.split("+")
  )


@dataclasses.dataclass(frozen=True)
class Train:
  """The `train` section.

  Attributes:
    steps: number of steps of the run.
    chunks: number of chunks in which the backbone processes a batch. The loss
      is that of the whole batch and its gradient is exact; activation memory
      is that of a chunk, and the backbone runs forward twice. BatchNorm in the
      backbone uses the statistics of a chunk, which changes the loss.
  """

  steps: Positive[int]
  chunks: Positive[int] = 1


@dataclasses.dataclass(frozen=True)
class Log:
  """The `log` section.

  Attributes:
    every_steps: interval of log lines and metric rows; the last step has one
      too.
    diagnostics: True to add `jssl.diagnostics.batch_measures` of the logged
      step's backbone features to its row.
    profile_steps: first and last step, counted from 1, that JAX's profiler
      traces to `workdir/profile`; () for none.
    wandb: project of Weights & Biases that also receives the metrics; "" for
      none. WANDB_MODE=offline keeps them in the workdir.
    mlflow: experiment of MLflow, at MLFLOW_TRACKING_URI; "" for none.
  """

  every_steps: Positive[int] = 50
  diagnostics: bool = True
  profile_steps: tuple[int, ...] = ()
  wandb: str = ""
  mlflow: str = ""

  def __post_init__(self) -> None:
    if self.profile_steps and not (
      len(self.profile_steps) == 2
      and 1 <= self.profile_steps[0] <= self.profile_steps[1]
    ):
      raise ValueError(
        f"log.profile_steps={self.profile_steps}: expected () or (first, last) "
        "with 1 <= first <= last"
      )

  def should_log(self, step: Any, total_steps: int) -> Any:
    """True at steps with a row, counted from 1; traceable."""
    return (step % self.every_steps == 0) | (step == total_steps)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """The `checkpoint` section.

  The checkpoint that the probe ranks best is always kept.

  Attributes:
    every_steps: interval of checkpoints; the last step has one too.
    keep_last: number of newest checkpoints to keep, at least 2: a run that is
      killed during a save needs the checkpoint before it.
    keep_evenly: also keep about this number of checkpoints, evenly spaced over
      the run; 0 for none. The start of a run logs their size.
  """

  every_steps: Positive[int]
  keep_last: Annotated[int, Interval(2)] = 2
  keep_evenly: NonNegative[int] = 10

  def keep_every_steps(self, total_steps: int) -> int | None:
    """Interval of the checkpoints that `keep_evenly` keeps; None for none."""
    if not self.keep_evenly:
      return None
    saved = total_steps / self.every_steps
    return self.every_steps * max(1, round(saved / self.keep_evenly))


@dataclasses.dataclass(frozen=True)
class InitFrom:
  """The `init_from` section: initial weights from another run or a file.

  Attributes:
    workdir: workdir of that run; "" for random initialisation.
    weights: file or folder of published weights instead, see
      `jssl.weights.load`. The backbone starts from them, adapted to the image
      size, the patch size and the channels by `jssl.weights.load_for`.
    channels: how `weights` get another number of channels. "repeat" repeats the
      kernels of the patch embedding or stem over the channels, and scales them
      so that equal channels give the same output; for one channel it sums them.
      "new" leaves these kernels at their random initialisation.
    step: step of its checkpoint; -1 for the last.
    heads: True to load head parameters and the objective's state as well, or
      the heads of an official training file, see `jssl.weights.load_heads`.
      The averaged backbone always starts as a copy of the backbone.
  """

  workdir: str = ""
  weights: str = ""
  channels: Literal["repeat", "new"] = "repeat"
  step: Annotated[int, Interval(-1)] = -1
  heads: bool = False

  def __post_init__(self) -> None:
    files.check_expanded("init_from.workdir", self.workdir)
    files.check_expanded("init_from.weights", self.weights)
    if self.weights and (self.workdir or self.step != -1):
      raise ValueError(
        f"init_from.weights={self.weights!r}: expected no keys of a run beside "
        "it; remove init_from.workdir and init_from.step, or init_from.weights"
      )
    if self.channels != "repeat" and not self.weights:
      raise ValueError(
        f'init_from.channels="{self.channels}": expected "repeat" without '
        "init_from.weights"
      )


@dataclasses.dataclass(frozen=True)
class Mesh:
  """The `mesh` section, see `jssl.mesh`.

  Attributes:
    data: number of groups of devices that a batch is split over; -1 for all
      devices / `fsdp`.
    fsdp: number of devices of a group, which shard parameters and optimizer
      state, and split the batch too.
  """

  data: Annotated[int, Interval(-1)] = -1
  fsdp: Positive[int] = 1


@dataclasses.dataclass(frozen=True)
class Probe:
  """The `probe` section.

  Attributes:
    probes: probes to fit, of "linear", "mlp" and "knn"; () for a set without a
      test split.
    baselines: features to compare with, of "pixels" and "random".
    features: features that the probes are fitted to: "pooled" of the backbone,
      "cls" (class tokens of the last blocks, or means of their patch tokens
      where the ViT pools those), "mean" (mean patch token) or "cls_mean"
      (both). All but "pooled" need a ViT. Spectra and diagnostics always use
      "pooled".
    blocks: number of last blocks of "cls" and "cls_mean".
    select_by: rule for the checkpoint to keep as the best, see
      `jssl.probe.selection`; all but "accuracy" work without labels and need
      `--diagnostics`.
    label_fractions: fractions of the train labels for extra linear probes.
    seeds: number of splits and initialisations; results are mean and deviation
      over them.
    validation_fraction: fraction of train held out for choosing
      hyper-parameters.
    batch_size: images per batch of the feature extraction.
    memory_limit_gib: limit above which the linear probe is fitted in
      minibatches, for features and logits of the whole sweep.
    linear_l2_values: L2 penalties on the mean cross-entropy to choose from.
    linear_tolerance: see `linear.fit`.
    linear_max_iterations: see `linear.fit`.
    knn_neighbours: numbers of neighbours to choose from.
    knn_temperatures: temperatures of the weighted vote to choose from, beside
      the plain vote.
    mlp_hidden_dims: hidden widths of the MLP probe.
    mlp_learning_rates: learning rates to choose from.
    mlp_l2_values: L2 penalties to choose from, with each learning rate.
    minibatch_size: rows per minibatch, for probes fitted in minibatches.
    minibatch_epochs: passes over train.
    minibatch_min_steps: smallest number of minibatches.
    pixel_dims: leading singular directions of the raw pixels to keep; 0 for
      all pixels.
    retrieval_neighbours: k of the mean average precision with which test images
      find train images of their class; 0 to leave retrieval out.
    corrupted_images: images of test on which the linear probe is evaluated
      under the 15 common corruptions at five severities; 0 for none, and all of
      a smaller set. They are held in memory.
    dense_images: images of each split for the dense probe, which segments
      images from patch tokens with a linear head and kNN; 0 for none. It needs
      a ViT and a set with masks.
    diagnostic_images: images of train for `--diagnostics`, from as many classes
      as leave at least 10 images for each.
    diagnostic_views: views of each of them, at least 4: the diagnostics fit on
      some and evaluate on others.

  Raises:
    ValueError: if a value is out of range.
  """

  probes: tuple[Literal["linear", "mlp", "knn"], ...] = ("linear", "knn", "mlp")
  baselines: tuple[Literal["pixels", "random"], ...] = ("pixels", "random")
  features: Literal["pooled", "cls", "cls_mean", "mean"] = "pooled"
  blocks: Literal[1, 4] = 1
  select_by: Literal["accuracy", "rank_me", "alpha_req", "lidar"] = "accuracy"
  label_fractions: tuple[OpenFraction, ...] = (0.1, 0.01)
  seeds: Positive[int] = 3
  validation_fraction: OpenFraction = 0.1
  batch_size: Positive[int] = 512
  memory_limit_gib: Positive[float] = 8.0
  # fmt: off
  linear_l2_values: tuple[Positive[float], ...] = (
    1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 1e-2, 1e-1, 1.0
  )
  # fmt: on
  linear_tolerance: Positive[float] = 1e-3
  linear_max_iterations: Positive[int] = 200
  knn_neighbours: tuple[Positive[int], ...] = (5, 10, 20, 50, 100, 200)
  knn_temperatures: tuple[Positive[float], ...] = (0.02, 0.07)
  mlp_hidden_dims: tuple[Positive[int], ...] = (256,)
  mlp_learning_rates: tuple[Positive[float], ...] = (1e-3, 3e-3)
  mlp_l2_values: tuple[Positive[float], ...] = (1e-5, 1e-4)
  minibatch_size: Positive[int] = 512
  minibatch_epochs: Positive[int] = 10
  minibatch_min_steps: NonNegative[int] = 500
  pixel_dims: NonNegative[int] = 256
  retrieval_neighbours: NonNegative[int] = 100
  corrupted_images: NonNegative[int] = 0
  dense_images: NonNegative[int] = 0
  diagnostic_images: Positive[int] = 1000
  diagnostic_views: Annotated[int, Interval(4)] = 10

  def __post_init__(self) -> None:
    check_fields(self, "probe")
    if self.blocks > 1 and not self.features.startswith("cls"):
      raise ValueError(
        f"probe.blocks={self.blocks}: expected 1 with probe.features="
        f'"{self.features}"; set probe.features to "cls" or "cls_mean"'
      )
    if self.corrupted_images and "linear" not in self.probes:
      raise ValueError(
        f"probe.corrupted_images={self.corrupted_images}: expected 0 with "
        f"probe.probes={self.probes}; corrupted images need the linear probe, "
        'so add "linear"'
      )
    if self.dense_images == 1:
      raise ValueError(
        "probe.dense_images=1: expected 0, or at least 2 images, of which some "
        "are held out"
      )
    for name, value in dataclasses.asdict(self).items():
      if value == () and name.startswith(("linear", "knn", "mlp")):
        raise ValueError(f"probe.{name}=() must have one value or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Config of a pretraining run.

  Attributes:
    seed: seed of initialisation, order of examples and augmentation, below
      2**32.
    data: data set, batch and input pipeline.
    augment: views.
    model: backbone.
    objective: method.
    head: optimization of the objective's head.
    optim: optimizer.
    order: order of examples.
    train: length of the run and chunking.
    checkpoint: interval and retention of checkpoints.
    log: interval of metrics.
    mesh: devices per axis.
    init_from: initial weights.
    probe: evaluation of checkpoints.
  """

  seed: Seed = 0
  data: Data
  augment: Augment
  model: ViT | ResNet = dataclasses.field(metadata={"classes": MODELS})
  objective: Objective = dataclasses.field(metadata={"classes": OBJECTIVES})
  head: HeadStrategy = HeadStrategy()
  optim: Optim
  order: Order = Order()
  train: Train
  checkpoint: Checkpoint
  log: Log = Log()
  mesh: Mesh = Mesh()
  init_from: InitFrom = InitFrom()
  probe: Probe = Probe()
