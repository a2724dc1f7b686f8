"""Encoders of centre crops: a checkpoint, a random backbone, or raw pixels."""

import functools
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float
from sklearn.decomposition import TruncatedSVD

from jssl import checkpoint
from jssl.augment import center_view
from jssl.config.schema import Config
from jssl.data.source import Source
from jssl.mesh import on_every_device
from jssl.models import ViT
from jssl.models.backbone import Backbone, init_variables
from jssl.models.tokens import Grid, patches
from jssl.probe import features
from jssl.probe.features import Encode
from jssl.typing import Images, Pixels, Variables

_MAX_SIDE_PX = 32
_SVD_ROWS = 10_000


class Encoder(NamedTuple):
  """A function from stored images [b, h, w, c] to features [b, d].

  `encode` also takes centre views, which it does not change.
  `kind` and `backbone` are the fields `features` and `backbone` of records, and
  `step` is that of the checkpoint or 0. `key` is a checksum of all inputs of
  the features but images. Pixels have no variables. `student` is the trained
  backbone beside an averaged one. `dims` is the dimension of a pooled feature
  and of a token if features have the columns of `center_features` with blocks.
  `tokens` is a function from the same images to patch tokens [b, n, d], if
  there are any.
  """

  kind: str
  step: int
  encode: Encode
  key: str
  variables: Variables | None = None
  backbone: Literal["student", "teacher", ""] = ""
  student: "Encoder | None" = None
  dims: tuple[int, int] | None = None
  tokens: Encode | None = None

  @property
  def name(self) -> str:
    """Name in logs and in the file names of cached features."""
    if not self.backbone:
      return self.kind
    if (self.kind, self.backbone) == ("backbone", "student"):
      return f"step{self.step}"
    return f"step{self.step}-{self.backbone}"

  def fields(self, dataset: str) -> dict[str, Any]:
    """Returns the fields of a record of these features."""
    return {
      "step": self.step,
      "dataset": dataset,
      "features": self.kind,
      "backbone": self.backbone,
    }


def center_features(
  backbone: Backbone, *, crop_size_px: int, channels: int = 1, blocks: int = 0
) -> Callable[[Variables, Pixels], Float[Array, "n d"]]:
  """Returns a function from (variables, images) to features.

  Images may be centre views. Those of one channel are repeated to `channels`.
  With `blocks`, columns are the pooled feature, the mean patch token, and the
  features of that many last blocks, the last one last.
  """

  def encode(variables: Variables, images: Pixels) -> Float[Array, "n d"]:
    view = center_view(images, crop_size_px=crop_size_px, channels=channels)
    if not blocks:
      return backbone.apply(variables, view, train=False)[0].pooled
    encoded, _ = backbone.apply(
      variables, view, train=False, tokens=True, blocks=blocks
    )
    parts = [encoded.pooled]
    if encoded.tokens is not None and encoded.blocks is not None:
      parts += [encoded.tokens.mean(1), encoded.blocks.reshape(len(images), -1)]
    return jnp.concatenate(parts, axis=1)

  return encode


def center_tokens(
  backbone: Backbone, *, crop_size_px: int, channels: int = 1
) -> Callable[[Variables, Pixels], Float[Array, "n p d"]]:
  """Returns a function from (variables, images) to patch tokens.

  Images of one channel are repeated to `channels`.
  """

  def encode(variables: Variables, images: Pixels) -> Float[Array, "n p d"]:
    view = center_view(images, crop_size_px=crop_size_px, channels=channels)
    encoded, _ = backbone.apply(variables, view, train=False, tokens=True)
    if encoded.tokens is None:
      raise ValueError("the backbone has no patch tokens")
    return encoded.tokens

  return encode


def last_blocks(config: Config) -> int:
  """Returns the number of blocks to extract, for all `probe.features`."""
  if config.probe.features == "pooled" or not isinstance(config.model, ViT):
    return 0
  return min(config.model.depth, 4)


def restore(
  workdir: str | os.PathLike, step: int, *, teacher: bool
) -> tuple[Variables, ...]:
  """Restores the student of a checkpoint and, if asked for, the teacher.

  The state of the optimizer is not restored.
  """
  student = checkpoint.restore_backbone(workdir, step)
  if not teacher:
    return (student,)
  return student, checkpoint.restore_backbone(
    workdir, step, teacher=True, check_files=False
  )


class BackboneEncoders:
  """Makes encoders of one backbone, compiled once for all variables."""

  def __init__(
    self,
    backbone: Backbone,
    image_shape: tuple[int, int, int],
    mesh: Mesh,
    key: str,
    blocks: int = 0,
  ):
    """Prepares the function; `key` is of inputs but variables and images."""
    self.grid = backbone.grid(image_shape)
    self._dims = (
      (backbone.feature_dim, self.grid.width) if blocks and self.grid else None
    )
    self._backbone, self._image_shape = backbone, image_shape
    self._mesh, self._key = mesh, f"{key}{blocks}" if blocks else key
    self._apply = jax.jit(
      center_features(
        backbone,
        crop_size_px=image_shape[0],
        channels=image_shape[-1],
        blocks=blocks,
      )
    )
    self._tokens = jax.jit(
      center_tokens(
        backbone, crop_size_px=image_shape[0], channels=image_shape[-1]
      )
    )

  def checkpoint(
    self, step: int, student: Variables, teacher: Variables | None = None
  ) -> Encoder:
    """Returns the teacher of a checkpoint, with its student, or the student."""
    if teacher is None:
      return self._encoder("backbone", step, student)._replace(
        backbone="student"
      )
    return self._encoder("backbone", step, teacher)._replace(
      backbone="teacher",
      student=self._encoder("student", step, student)._replace(
        backbone="student"
      ),
    )

  def random(self, seed: int) -> Encoder:
    """Returns the backbone with the initial variables of a run."""
    variables = init_variables(seed, self._backbone, self._image_shape)
    return self._encoder("random", 0, variables)

  def published(self, name: str, variables: Variables) -> Encoder:
    """Returns the backbone with published weights."""
    return self._encoder(name, 0, variables)

  def _encoder(self, kind: str, step: int, variables: Variables) -> Encoder:
    expected = jax.eval_shape(
      lambda: init_variables(0, self._backbone, self._image_shape)
    )
    if jax.tree.map(jnp.shape, expected) != jax.tree.map(jnp.shape, variables):
      raise ValueError(
        f"the backbone of step {step} was not pretrained on images of shape "
        f"{self._image_shape}; choose another set with --dataset"
      )
    key = features.digest(self._key, features.variables_digest(variables))
    replicated = on_every_device(self._mesh, variables)
    return Encoder(
      kind,
      step,
      lambda images: self._apply(replicated, images),
      key,
      variables,
      dims=self._dims,
      tokens=(lambda images: self._tokens(replicated, images))
      if self.grid
      else None,
    )


def flat_pixels(x: Images) -> Float[Array, "b d"]:
  """Flattens images in [0, 1], after resizing them to at most 32 px."""
  if x.shape[1] > _MAX_SIDE_PX:
    shape = (len(x), _MAX_SIDE_PX, _MAX_SIDE_PX, x.shape[-1])
    x = jax.image.resize(x, shape, "linear")
  return x.reshape(len(x), -1)


def pixels(
  train: Source, *, crop_size_px: int, max_dim: int, grid: Grid | None = None
) -> Encoder:
  """Returns raw pixels as features; those of each patch as tokens.

  Pixels are resized to at most 32 px, then projected onto `max_dim` (0: all)
  leading singular directions of train, without centring, which nearly preserves
  inner products. A random rotation follows: in the singular basis itself,
  probes that standardise features would whiten them.
  """
  key = features.digest(
    features.source_digest(train), str((crop_size_px, max_dim))
  )
  crop = functools.partial(center_view, crop_size_px=crop_size_px)
  flat = jax.jit(lambda images: flat_pixels(crop(images)))
  tokens = None
  if grid:
    tokens = jax.jit(lambda images: patches(crop(images), grid.patch_size_px))
  one = jax.eval_shape(flat, train.fetch(np.arange(1))["image"])
  if not 0 < max_dim < one.size:
    return Encoder("pixels", 0, flat, key, tokens=tokens)
  rows = np.linspace(0, len(train) - 1, min(_SVD_ROWS, len(train))).astype(int)
  chunks = np.array_split(rows, -(-len(rows) // 1000))
  sample = np.concatenate([flat(train.fetch(c)["image"]) for c in chunks])
  svd = TruncatedSVD(min(max_dim, len(sample)), random_state=0).fit(sample)
  dim = len(svd.components_)
  turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))
  directions = (svd.components_.T @ turn).astype(np.float32)
  project = jax.jit(
    lambda images: jnp.matmul(
      flat(images), directions, precision=jax.lax.Precision.HIGHEST
    )
  )
  return Encoder("pixels", 0, project, key, tokens=tokens)
