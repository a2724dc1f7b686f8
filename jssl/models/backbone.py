"""What the rest of the package sees of a model: `init` and `apply`."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import rng
from jssl.mesh import rows_on_all
from jssl.typing import Images, Key, Keys, Variables


class Backbone(NamedTuple):
  """An image encoder as two pure functions.

  Attributes:
    init: `(key, image_shape [3]) -> variables`.
    apply: `(variables, images [n, h, w, c] in [0, 1], *, train, keys=None) ->
      (features [n, d], variables)`. The pixels are standardised inside. With
      `train=True` the returned variables carry the updated batch statistics;
      they are over all n images, wherever the images lie, unless the model
      cuts them into groups. `keys` [n] are typed keys, one for each image;
      what is drawn for an image depends on its key alone, so that neither
      chunks nor meshes change it. Without keys, and with `train=False`,
      nothing is drawn: what is random in training is off.
    feature_dim: d.
  """

  init: Callable[[Key, tuple[int, int, int]], Variables]
  apply: Callable[..., tuple[Float[Array, "n d"], Variables]]
  feature_dim: int


def from_linen(
  module: nn.Module,
  feature_dim: int,
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
) -> Backbone:
  """Wraps a module called as `module(images, train=..., keys=...)`.

  Args:
    module: gives features [n, d]; draws, if it draws at all, from `keys` [n],
      which are None where nothing is to be drawn.
    feature_dim: d.
    mean: of the pixels in [0, 1], for one channel or for each.
    std: the same for the standard deviation.
  """

  def standardise(images: Images) -> Images:
    channels = images.shape[-1]
    if not {len(mean), len(std)} <= {1, channels}:
      raise ValueError(
        f"model.mean={mean}, model.std={std} must have one value, or one for "
        f"each of the {channels} channels of the images"
      )
    shape = (1, 1, 1, -1)
    centre = jnp.asarray(mean, images.dtype).reshape(shape)
    scale = jnp.asarray(std, images.dtype).reshape(shape)
    return (images - centre) / scale

  def init(key: Key, image_shape: tuple[int, int, int]) -> Variables:
    images = jnp.zeros((1, *image_shape))
    return module.init(key, standardise(images), train=False, keys=None)

  def apply(
    variables: Variables,
    images: Images,
    *,
    train: bool,
    keys: Keys | None = None,
  ) -> tuple[Float[Array, "n d"], Variables]:
    if keys is not None and keys.shape != images.shape[:1]:
      raise ValueError(
        f"keys of shape {keys.shape} for images of shape {images.shape}: "
        "expected one typed key for each image, as of rng.per_row"
      )
    features, updated = module.apply(
      variables,
      standardise(rows_on_all(images)),
      train=train,
      keys=keys if train else None,
      mutable=[name for name in variables if train and name != "params"],
    )
    features = rows_on_all(features)
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    return features, {**variables, **updated}

  return Backbone(init, apply, feature_dim)


def init_variables(
  seed: int, backbone: Backbone, image_shape: tuple[int, int, int]
) -> Variables:
  """Returns the variables with which a run of this seed starts."""
  key = rng.stream(jax.random.key(seed), "backbone")
  return backbone.init(key, image_shape)
