"""Where features come from: a checkpoint, a random backbone, or raw pixels.

All see the same view. Raw pixels are looked at 32 px wide at most; where they
are then still many they are projected onto the leading singular directions of
train, not centred, which keeps inner products and drops next to nothing. What
is left is turned at random: along the singular directions themselves, probes
that standardise would whiten, and the baseline would not be raw pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float
from sklearn.decomposition import TruncatedSVD

from jssl.augment import center_view
from jssl.data.source import Source
from jssl.mesh import on_every_device
from jssl.models.backbone import Backbone, init_variables
from jssl.probe import features
from jssl.probe.features import Encode
from jssl.typing import Images, Pixels, Variables

_MAX_SIDE_PX = 32
_SVD_ROWS = 10_000
_SVD_CHUNK_ROWS = 1000


class Subject(NamedTuple):
  """What is probed.

  Attributes:
    kind: "backbone", "random" or "pixels", as rows of `probe.jsonl` say it.
    step: of the checkpoint; 0 of a baseline.
    encode: uint8 images to features.
    key: checksum of what `encode` depends on.
    variables: of a backbone; None of raw pixels.
  """

  kind: str
  step: int
  encode: Encode
  key: str
  variables: Variables | None = None

  @property
  def name(self) -> str:
    """As it stands in the names of kept features."""
    return f"step{self.step}" if self.kind == "backbone" else self.kind


def center_features(
  backbone: Backbone, *, crop_size_px: int
) -> Callable[[Variables, Pixels], Float[Array, "n d"]]:
  """Returns the function from variables and uint8 images to features."""

  def encode(variables: Variables, images: Pixels) -> Float[Array, "n d"]:
    seen = center_view(images, crop_size_px=crop_size_px)
    return backbone.apply(variables, seen, train=False)[0]

  return encode


class Encoder:
  """A backbone behind the view of evaluation, compiled once for all steps."""

  def __init__(
    self,
    backbone: Backbone,
    *,
    crop_size_px: int,
    channels: int,
    mesh: Mesh,
    key: str,
  ):
    """Says what is encoded.

    Args:
      backbone: to be given variables.
      crop_size_px: side of the view that it sees.
      channels: of the images.
      mesh: has the variables on all its devices.
      key: what, besides variables, the features depend on.
    """
    self._backbone = backbone
    self._image_shape = (crop_size_px, crop_size_px, channels)
    self._mesh = mesh
    self._key = key
    self._apply = jax.jit(center_features(backbone, crop_size_px=crop_size_px))

  def checkpoint(self, step: int, variables: Variables) -> Subject:
    """Returns the backbone with the variables of a checkpoint."""
    return self._subject("backbone", step, variables)

  def random(self, seed: int) -> Subject:
    """Returns the backbone as a run with this seed starts."""
    variables = init_variables(seed, self._backbone, self._image_shape)
    return self._subject("random", 0, variables)

  def _subject(self, kind: str, step: int, variables: Variables) -> Subject:
    wanted = jax.eval_shape(
      lambda: init_variables(0, self._backbone, self._image_shape)
    )
    if jax.tree.map(jnp.shape, wanted) != jax.tree.map(jnp.shape, variables):
      raise ValueError(
        f"the backbone of step {step} was not pretrained on images of shape "
        f"{self._image_shape}; choose another set with --dataset"
      )
    key = features.digest(self._key, features.variables_digest(variables))
    everywhere = on_every_device(self._mesh, variables)
    return Subject(
      kind, step, lambda images: self._apply(everywhere, images), key, variables
    )


def flat_pixels(x: Images) -> Float[Array, "b d"]:
  """Returns pixels in [0, 1] as rows, of images made 32 px wide at most."""
  if x.shape[1] > _MAX_SIDE_PX:
    shape = (len(x), _MAX_SIDE_PX, _MAX_SIDE_PX, x.shape[-1])
    x = jax.image.resize(x, shape, "linear")
  return x.reshape(len(x), -1)


def pixels(train: Source, *, crop_size_px: int, max_dim: int) -> Subject:
  """Returns the pixels as features.

  Args:
    train: some of its images give the directions.
    crop_size_px: side of the view that the backbone sees.
    max_dim: directions that are kept; 0 keeps the pixels as they are.
  """
  key = features.digest(
    features.source_digest(train), str((crop_size_px, max_dim))
  )
  flat = jax.jit(
    lambda images: flat_pixels(center_view(images, crop_size_px=crop_size_px))
  )
  one = jax.eval_shape(flat, train.fetch(np.arange(1))["image"])
  if not 0 < max_dim < one.size:
    return Subject("pixels", 0, flat, key)
  rows = np.linspace(0, len(train) - 1, min(_SVD_ROWS, len(train))).astype(int)
  some = np.concatenate(
    [
      np.asarray(flat(train.fetch(part)["image"]))
      for part in np.array_split(rows, -(-len(rows) // _SVD_CHUNK_ROWS))
    ]
  )
  svd = TruncatedSVD(min(max_dim, len(some)), random_state=0).fit(some)
  dim = len(svd.components_)
  turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))
  directions = (svd.components_.T @ turn).astype(np.float32)
  project = jax.jit(
    lambda images: jnp.matmul(
      flat(images), directions, precision=jax.lax.Precision.HIGHEST
    )
  )
  return Subject("pixels", 0, project, key)
