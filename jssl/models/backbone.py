"""The interface of an image encoder: pure functions `init` and `apply`."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import rng
from jssl.mesh import rows_on_all
from jssl.models.tokens import Encoded, Grid, Mask, Spec
from jssl.pixels import to_unit_interval
from jssl.typing import (
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


def no_grid(image_shape: tuple[int, ...]) -> None:
  """The grid of a backbone without patch tokens."""


class Backbone(NamedTuple):
  """An image encoder as two pure functions.

  Attributes:
    init: `(key, image_shape) -> variables`, with image_shape (h, w, c).
    apply: `(variables, images [n, h, w, c], *, train, keys=None, mask=None,
      tokens=False, blocks=0) -> (Encoded, variables)`, with pooled features
      [n, d] and, if asked for, patch tokens and the features of the last
      `blocks` blocks. Images are uint8, uint16 or floats in [0, 1], see
      `jssl.pixels`; they are standardised inside. With `train=True` the
      returned variables hold updated batch statistics, over all n images of
      the global batch. `keys` [n] are typed keys, one per image, so that
      random draws do not depend on chunks or meshes. Dropout and its like are
      off without keys and with `train=False`. `mask` hides patches, see `Drop`
      and `Replace`. A backbone without tokens need not accept the last three.
    feature_dim: feature dimension d.
    grid: `image_shape -> Grid`, the patch tokens of an image; None if the
      backbone has no tokens and takes no masks.
    standardize: function from such images to zero mean and unit variance, as
      `apply` sees them.
    frozen: True if training leaves all variables as they are, see `freeze`.
  """

  init: Callable[[Key, tuple[int, int, int]], Variables]
  apply: Callable[..., tuple[Encoded, Variables]]
  feature_dim: int
  grid: Callable[[tuple[int, ...]], Grid | None] = no_grid
  standardize: Callable[[Array], Array] = jnp.asarray
  frozen: bool = False

  def spec(
    self, image_shape: tuple[int, int, int], num_classes: int = 0
  ) -> Spec:
    """Returns the shapes of the features of images (h, w, c)."""
    grid = self.grid(image_shape)
    return Spec(self.feature_dim, grid, image_shape[-1], num_classes)

  def freeze(self) -> "Backbone":
    """Returns a backbone that training only evaluates.

    Batch statistics are the running ones, dropout and its like are off, and
    gradients are 0.
    """

    def apply(
      variables: Variables,
      images: Pixels,
      *,
      train: bool,
      **asked: Any,
    ) -> tuple[Encoded, Variables]:
      fixed = jax.lax.stop_gradient(variables)
      encoded, _ = self.apply(fixed, images, train=False, **asked)
      return encoded, variables

    return self._replace(apply=apply, frozen=True)


def from_linen(
  module: nn.Module,
  feature_dim: int,
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  grid: Callable[[tuple[int, ...]], Grid] | None = None,
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
      With a grid, it is also given `mask`, `tokens` and `blocks` and returns
      `Encoded`.
    feature_dim: feature dimension d.
    mean: mean of the pixels in [0, 1], one value or one per channel.
    std: standard deviation of the pixels, one value or one per channel.
    grid: function from an image shape (h, w, c) to its patch tokens; None if
      the module has none.

  Raises:
    ValueError: if `mean` or `std` is not finite, or `std` not positive.
  """
  check_value("model.mean", mean, tuple[float, ...])
  check_value("model.std", std, tuple[Positive[float], ...])

  def standardize(images: Array) -> Float[Array, "*n h w c"]:
    images = to_unit_interval(images)
    channels = images.shape[-1]
    if not {len(mean), len(std)} <= {1, channels}:
      raise ValueError(
        f"model.mean={mean} and model.std={std} must have one value, or one "
        f"for each of the {channels} channels of the images"
      )
    shape = (1,) * (images.ndim - 1) + (-1,)
    centre = jnp.asarray(mean, images.dtype).reshape(shape)
    scale = jnp.asarray(std, images.dtype).reshape(shape)
    return (images - centre) / scale

  def init(key: Key, image_shape: tuple[int, int, int]) -> Variables:
    images = jnp.zeros((1, *image_shape))
    return module.init(key, standardize(images), train=False, keys=None)

  def apply(
    variables: Variables,
    images: Pixels,
    *,
    train: bool,
    keys: Keys | None = None,
    mask: Mask | None = None,
    tokens: bool = False,
    blocks: int = 0,
  ) -> tuple[Encoded, Variables]:
    asked: dict[str, Any] = {}
    if grid is not None:
      asked = {"mask": mask, "tokens": tokens, "blocks": blocks}
    elif tokens or blocks or mask is not None:
      raise ValueError(
        f"{type(module).__name__} has no patch tokens or blocks and takes no "
        'masks; use model.name="vit"'
      )
    if keys is not None and keys.shape != images.shape[:1]:
      raise ValueError(
        f"keys of shape {keys.shape} for images of shape {images.shape}: "
        "expected one typed key per image, such as from rng.per_row"
      )
    encoded, updated = module.apply(
      variables,
      standardize(rows_on_all(jnp.asarray(images))),
      train=train,
      keys=keys if train else None,
      **asked,
      mutable=[name for name in variables if train and name != "params"],
    )
    if not isinstance(encoded, Encoded):
      encoded = Encoded(encoded)
    return jax.tree.map(output, encoded), {**variables, **updated}

  def output(features: Float[Array, "n *d"]) -> Float[Array, "n *d"]:
    features = rows_on_all(features)
    return features.astype(jnp.promote_types(features.dtype, jnp.float32))

  return Backbone(init, apply, feature_dim, grid or no_grid, standardize)


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
