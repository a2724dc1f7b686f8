"""Heads: small networks that objectives own, from h to z."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class MLP(nn.Module):
  """Linear layers with BatchNorm and ReLU between them.

  Statistics are over all leading axes: over the global batch and all views.

  Attributes:
    hidden_dims: widths of the hidden layers; () makes it linear.
    out_dim: width of the output.
    last_norm: whether a BatchNorm without scale and bias ends it.
  """

  hidden_dims: tuple[int, ...]
  out_dim: int
  last_norm: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, "*n d"], train: bool
  ) -> Float[Array, "*n z"]:
    """Returns the projections."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    for width in self.hidden_dims:
      # The norm that follows has the bias.
      x = nn.Dense(width, use_bias=False, dtype=dtype)(x)
      x = nn.BatchNorm(use_running_average=not train, dtype=dtype)(x)
      x = nn.relu(x)
    x = nn.Dense(self.out_dim, use_bias=not self.last_norm, dtype=dtype)(x)
    if self.last_norm:
      x = nn.BatchNorm(
        use_running_average=not train,
        use_scale=False,
        use_bias=False,
        dtype=dtype,
      )(x)
    return x
