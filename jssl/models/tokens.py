"""Patch tokens: the grid of an encoder, masks of it, and encoder outputs."""

import dataclasses
from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int

from jssl.typing import Images


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Grid:
  """The patch tokens that a backbone makes of an image.

  Attributes:
    rows: number of rows of patches.
    columns: number of columns of patches; tokens are in raster order.
    width: width of a token.
    patch_size_px: side of a patch.
  """

  rows: int
  columns: int
  width: int
  patch_size_px: int

  @property
  def patches(self) -> int:
    """Number of patches of an image."""
    return self.rows * self.columns


class Spec(NamedTuple):
  """The shapes that an objective makes its heads for.

  Attributes:
    feature_dim: dimension of a pooled feature.
    grid: patch tokens of a large view; None if the backbone has none.
    channels: number of channels of an image.
    num_classes: number of classes of the data set; 0 without labels.
  """

  feature_dim: int
  grid: Grid | None = None
  channels: int = 3
  num_classes: int = 0


class Encoded(NamedTuple):
  """Output of a backbone.

  Attributes:
    pooled: one feature per image.
    tokens: one feature per patch, without class and register tokens; None
      unless asked for. Of masks that drop patches, those of the visible ones.
    blocks: one feature per image and each of the last blocks, the last block
      last; None unless asked for.
  """

  pooled: Float[Array, "*b d"]
  tokens: Float[Array, "*b n w"] | None = None
  blocks: Float[Array, "*b l w"] | None = None


class Replace(NamedTuple):
  """A mask whose patches are replaced by the mask token of the backbone.

  Attributes:
    hidden: True where the token of a patch is replaced.
  """

  hidden: Bool[Array, "*b n"]


class Drop(NamedTuple):
  """A mask whose patches are not encoded: the cost falls with their number.

  Attributes:
    visible: raster indices of the patches to encode; their number is static.
    valid: False where `visible` is padding, which no other token attends to;
      None if there is none.
    targets: raster indices of blocks of patches to predict; None without them.
    targets_valid: False where `targets` is padding.
  """

  visible: Int[Array, "*b k"]
  valid: Bool[Array, "*b k"] | None = None
  targets: Int[Array, "*b m t"] | None = None
  targets_valid: Bool[Array, "*b m t"] | None = None


Mask = Replace | Drop


def patches(images: Images, size: int) -> Float[Array, "b n p"]:
  """Cuts images into patches [b, h/size * w/size, size² c].

  A patch has its pixels by row, column and channel; the channel is fastest.
  """
  # A reshape and one matrix product are several times as fast as a convolution
  # on CPU.
  b, h, w, c = images.shape
  grid = images.reshape(b, h // size, size, w // size, size, c)
  return grid.swapaxes(2, 3).reshape(b, -1, size * size * c)
