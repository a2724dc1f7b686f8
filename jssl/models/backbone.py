"""What the rest of the package sees of a model: `init` and `apply`."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import rng
from jssl.typing import Images, Key, Variables


class Backbone(NamedTuple):
  """An image encoder as two pure functions.

  Attributes:
    init: `(key, image_shape [3]) -> variables`.
    apply: `(variables, images [n, h, w, c] in [0, 1], *, train, key=None) ->
      (features [n, d], variables)`. The pixels are standardised inside. With
      `train=True` the returned variables carry the updated batch statistics;
      they are over all n images, wherever the images lie.
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
  """Wraps a module called as `module(images, train=...)`.

  Args:
    module: gives features [n, d] and draws randomness, if any, from "dropout".
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
    return module.init(key, standardise(images), train=False)

  def apply(
    variables: Variables, images: Images, *, train: bool, key: Key | None = None
  ) -> tuple[Float[Array, "n d"], Variables]:
    features, updated = module.apply(
      variables,
      standardise(images),
      train=train,
      rngs=None if key is None else {"dropout": key},
      mutable=[name for name in variables if train and name != "params"],
    )
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    return features, {**variables, **updated}

  return Backbone(init, apply, feature_dim)


def init_variables(
  seed: int, backbone: Backbone, image_shape: tuple[int, int, int]
) -> Variables:
  """Returns the variables with which a run of this seed starts."""
  key = rng.stream(jax.random.key(seed), "backbone")
  return backbone.init(key, image_shape)
