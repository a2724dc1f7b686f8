"""The interface of an image encoder: pure functions `init` and `apply`."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import rng
from jssl.mesh import rows_on_all
from jssl.typing import (
  Images,
  Interval,
  Key,
  Keys,
  Pixels,
  Positive,
  Variables,
  check_value,
)

# No known model is wider; wider programs fail only in the compiler.
Width = Annotated[int, Interval(1, 2**16)]


class Backbone(NamedTuple):
  """An image encoder as two pure functions.

  Attributes:
    init: `(key, image_shape) -> variables`, with image_shape (h, w, c).
    apply: `(variables, images [n, h, w, c], *, train, keys=None) ->
      (features [n, d], variables)`. Images are floats in [0, 1], or uint8,
      which are divided by 255; they are standardised inside. With `train=True`
      the returned variables hold updated batch statistics, over all n images
      of the global batch. `keys` [n] are typed keys, one per image, so that
      random draws do not depend on chunks or meshes. Dropout and its like are
      off without keys and with `train=False`.
    feature_dim: feature dimension d.
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
  """Makes a backbone from a Flax Linen module.

  Example:
    >>> import flax.linen as nn
    >>> class Linear(nn.Module):
    ...   @nn.compact
    ...   def __call__(self, images, train, keys=None):
    ...     return nn.Dense(16)(images.reshape(len(images), -1))
    >>> backbone = from_linen(Linear(), 16, mean=(0.5,), std=(0.5,))

  Args:
    module: module called as `module(images, train=..., keys=...)` that returns
      features [n, d]; `keys` [n] or None are its only source of randomness.
    feature_dim: feature dimension d.
    mean: mean of the pixels in [0, 1], one value or one per channel.
    std: standard deviation of the pixels, one value or one per channel.

  Raises:
    ValueError: if `mean` or `std` is not finite, or `std` not positive.
  """
  check_value("model.mean", mean, tuple[float, ...])
  check_value("model.std", std, tuple[Positive[float], ...])

  def standardise(images: Array) -> Images:
    if images.dtype == jnp.uint8:
      images = images.astype(float) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise TypeError(
        f"images of dtype {images.dtype}: expected floats in [0, 1] or uint8"
      )
    channels = images.shape[-1]
    if not {len(mean), len(std)} <= {1, channels}:
      raise ValueError(
        f"model.mean={mean} and model.std={std} must have one value, or one "
        f"for each of the {channels} channels of the images"
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
    images: Images | Pixels,
    *,
    train: bool,
    keys: Keys | None = None,
  ) -> tuple[Float[Array, "n d"], Variables]:
    if keys is not None and keys.shape != images.shape[:1]:
      raise ValueError(
        f"keys of shape {keys.shape} for images of shape {images.shape}: "
        "expected one typed key per image, such as from rng.per_row"
      )
    features, updated = module.apply(
      variables,
      standardise(rows_on_all(jnp.asarray(images))),
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
  """Returns the initial variables of a training run with this seed.

  Example:
    >>> model = ResNet(depth=18, small_images=True, width=8)
    >>> variables = init_variables(0, model.backbone(), (32, 32, 3))
    >>> sorted(variables)
    ['batch_stats', 'params']
  """
  key = rng.stream(rng.root(seed), "backbone")
  return backbone.init(key, image_shape)
