"""Backbones of runs, or of published weights, with their preprocessing."""

import dataclasses
import math
import os
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import checkpoint
from jssl.augment import center_view
from jssl.config.build import build_backbone, has_teacher, read_config
from jssl.models import Backbone, ResNet, ViT, init_variables
from jssl.models.tokens import Encoded
from jssl.pixels import check_range
from jssl.runtime.paths import as_path
from jssl.typing import Images, Pixels, Variables
from jssl.weights.load import Published, on_default_device


@dataclasses.dataclass(frozen=True)
class Encoder:
  """The function from images to features of a pretrained backbone.

  Attributes:
    backbone: the backbone.
    image_shape: (height, width, channels) of the images that the run's probe
      evaluates, or of the stored positions of published weights; `preprocess`
      makes such images. A backbone may accept other sizes.
  """

  backbone: Backbone
  image_shape: tuple[int, int, int]

  @overload
  def __call__(
    self,
    variables: Variables,
    images: Pixels,
    *,
    tokens: Literal[False] = False,
  ) -> Float[Array, "b d"]: ...

  @overload
  def __call__(
    self,
    variables: Variables,
    images: Pixels,
    *,
    tokens: Literal[True],
  ) -> Encoded: ...

  def __call__(
    self,
    variables: Variables,
    images: Pixels,
    *,
    tokens: bool = False,
  ) -> Float[Array, "b d"] | Encoded:
    """Returns features, in evaluation mode.

    Args:
      variables: parameters and batch statistics of the backbone.
      images: [b, h, w, c], not standardised: floats in [0, 1], or uint8 or
        uint16, see `jssl.pixels`. The range is not checked under `jax.jit`.
      tokens: True for `Encoded`: `pooled` features [b, d], and `tokens`, one
        feature [b, n, w] per patch, by rows of the image.

    Raises:
      ValueError: if images have another number of channels or another range, or
        the backbone has no patch tokens.
      TypeError: if images are not floats, uint8 or uint16.
    """
    *_, channels = self.image_shape
    if images.ndim != 4 or images.shape[-1] != channels:
      raise ValueError(
        f"images of shape {list(images.shape)}: expected [b, h, w, {channels}]"
        f", such as [b, {', '.join(map(str, self.image_shape))}]"
      )
    check_range(images)
    if not tokens:
      return self.backbone.apply(variables, images, train=False)[0].pooled
    if self.backbone.grid(images.shape[1:]) is None:
      raise ValueError(
        "tokens=True: expected a backbone with patch tokens (model.name="
        '"vit"), and this one has none; use tokens=False'
      )
    return self.backbone.apply(variables, images, train=False, tokens=True)[0]

  def preprocess(self, images: Pixels) -> Images:
    """Returns centre crops in [0, 1] of stored images [b, h, w, c].

    They are the views that the probe of the run evaluates: the centre square,
    resized to `image_shape`. One channel is repeated to those of the backbone.
    """
    size, _, channels = self.image_shape
    return center_view(images, crop_size_px=size, channels=channels)


def load_backbone(
  path: str | os.PathLike,
  step: int | None = None,
  *,
  teacher: bool | None = None,
) -> tuple[Encoder, Variables]:
  """Returns a trained encoder as `(apply, variables)`.

  Example:
    >>> apply, variables = jssl.load_backbone("runs/quickstart")
    >>> h = apply(variables, apply.preprocess(images))
    >>> encoded = apply(variables, apply.preprocess(images), tokens=True)
    >>> apply, variables = jssl.load_backbone("dinov2_vits14.safetensors")

  Args:
    path: workdir of a run, or a file or folder of published weights, see
      `jssl.weights.load`.
    step: step of the checkpoint; None takes the best by `probe.select_by`, or
      the last where nothing was probed. None for a file.
    teacher: True for the averaged backbone, False for the trained one (the
      student); None for the averaged one where the method has one, as the probe
      evaluates. None for a file.

  Returns:
    apply: maps variables and images to features, see `Encoder`.
    variables: parameters and batch statistics of the backbone.

  Raises:
    FileNotFoundError: if the run, the checkpoint or the file does not exist.
    ValueError: if the config of the run is damaged or of another version,
      `teacher` is True and the method averages no backbone, or a file cannot
      be read or is given with `step` or `teacher`.
    CheckpointError: if the checkpoint is damaged.
  """
  if is_published(path):
    if (step, teacher) != (None, None):
      raise ValueError(
        f"step={step}, teacher={teacher}: expected None, because {path} is not "
        "the workdir of a run and has one backbone"
      )
    published = Published(path)
    variables = published.variables(on_default_device)
    return Encoder(published.model.backbone(), published.image_shape), variables
  config = read_config(path)
  if teacher is None:
    teacher = has_teacher(config)
  elif teacher and not has_teacher(config):
    raise ValueError(
      "teacher=True: expected a method with an averaged backbone, and "
      f"{type(config.objective).__name__} (objective.name) has none; use "
      "teacher=False"
    )
  step = find_step(path, step)
  backbone = build_backbone(config)
  variables = checkpoint.restore_backbone(path, step, teacher=teacher)
  size = config.augment.crop_size_px
  shape = _image_shape(config.model, backbone, variables, size)
  return Encoder(backbone, shape), variables


def find_step(workdir: str | os.PathLike, step: int | None = None) -> int:
  """Returns the step of a checkpoint; for None as `load_backbone`.

  Raises:
    FileNotFoundError: if the run has no such checkpoint.
  """
  steps = checkpoint.steps(workdir)
  if not steps:
    raise FileNotFoundError(f"{workdir} has no finished checkpoint")
  if step is None:
    best = checkpoint.best_step(workdir)
    step = best if best in steps else steps[-1]
  if step not in steps:
    raise FileNotFoundError(
      f"{workdir} has no checkpoint of step {step}; it has {steps}"
    )
  return step


def is_published(path: str | os.PathLike) -> bool:
  """True for a file, or a folder of files that is not a workdir."""
  path = as_path(path)
  if path.is_dir():
    return not checkpoint.steps(path) and any(path.glob("*.safetensors*"))
  return path.is_file() or path.suffix == ".safetensors"


def _image_shape(
  model: ViT | ResNet, backbone: Backbone, variables: Variables, size: int
) -> tuple[int, int, int]:
  """Returns the image shape with which a backbone has variables like these."""
  wanted = jax.tree.map(jnp.shape, variables)

  def shapes(channels: int) -> Any:
    shape = (size, size, channels)
    found = jax.eval_shape(lambda: init_variables(0, backbone, shape))
    return jax.tree.map(jnp.shape, found)

  def elements(shapes: Any) -> int:
    leaves = jax.tree.leaves(shapes, is_leaf=lambda x: isinstance(x, tuple))
    return sum(map(math.prod, leaves))

  # The config may have a mean for each channel. Otherwise the number of
  # parameters gives theirs: it grows by the same number with each channel.
  channels = max(len(model.mean), len(model.std))
  if channels == 1:
    one, two = elements(shapes(1)), elements(shapes(2))
    channels = max(1, 1 + (elements(wanted) - one) // (two - one))
  if shapes(channels) != wanted:
    raise ValueError(
      "the checkpoint is not one of the config's backbone (model)"
    )
  return size, size, channels
