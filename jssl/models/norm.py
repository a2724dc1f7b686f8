"""Batch normalisation (Ioffe & Szegedy, ICML 2015) over a batch or groups.

Parameter names and defaults equal those of `flax.linen.BatchNorm`, so that each
reads the variables of the other. Groups, and the variance in two passes of all
inputs but bfloat16, differ.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jssl.mesh import rows_on_all

# Checkpoint name of the statistics: rematerialised layers save them instead of
# repeating the sums and their communication.
STATISTICS = "batch statistics"


def statistics(
  x: Float[Array, "*n d"], dtype: jnp.dtype
) -> tuple[Float[Array, "d"], Float[Array, "d"]]:
  """Returns mean and biased variance, E[(x - mean)²], of the last axis.

  E[x²] - E[x]² cancels where the mean is much larger than the deviation. It is
  used for bfloat16: the rounding of float32, 2^-24 (mean / deviation)², is then
  below that of x, 2^-9 mean / deviation, up to a ratio of 2^15. Both sums take
  one pass, which compilers fuse with the convolution that makes x. Otherwise
  the second pass is one more all-reduce of size [d].
  """
  one_pass = x.dtype == jnp.bfloat16
  x = x.astype(dtype)
  axes = tuple(range(x.ndim - 1))
  mean = checkpoint_name(x.mean(axes), STATISTICS)
  if one_pass:
    variance = jnp.square(x).mean(axes) - jnp.square(mean)
    return mean, checkpoint_name(jnp.maximum(variance, 0), STATISTICS)
  # The variance has derivative 0 with respect to the mean. Without this, the
  # backward pass would sum those zeros over all devices.
  centre = jax.lax.stop_gradient(mean).reshape((1,) * len(axes) + (-1,))
  variance = jnp.square(x - centre).mean(axes)
  return mean, checkpoint_name(variance, STATISTICS)


class BatchNorm(nn.Module):
  """y = scale (x - mean) / sqrt(variance + epsilon) + bias, for each channel.

  With one group, mean and variance are over the global batch on any sharding.
  With G groups, the rows are split into G contiguous parts with statistics of
  their own ("ghost" batches, Hoffer et al., NeurIPS 2017). If G is a multiple
  of the number of devices, normalisation needs no collective; the running
  averages (of the means over groups) still need one of size [d]. Statistics are
  in float32 or wider. Groups have no effect in evaluation and `init`.

  Attributes:
    use_running_average: True to normalise by the running averages.
    groups: number of groups G.
    momentum: decay of the running averages.
    epsilon: constant added to the variance.
    scale_init: initializer of `scale`.
    dtype: dtype of the result; None: promoted from x and the parameters.
  """

  use_running_average: bool
  groups: int = 1
  momentum: float = 0.99
  epsilon: float = 1e-5
  scale_init: nn.initializers.Initializer = nn.initializers.ones
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "n *m d"]) -> Float[Array, "n *m d"]:
    x = rows_on_all(x)
    d = x.shape[-1]
    of_channels = (d,), jnp.float32
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, *of_channels)
    running_var = self.variable("batch_stats", "var", jnp.ones, *of_channels)
    scale = self.param("scale", self.scale_init, *of_channels)
    bias = self.param("bias", nn.initializers.zeros, *of_channels)
    dtype = self.dtype or jnp.result_type(x, scale, bias)

    def normalise(x: Array, mean: Array, var: Array) -> Array:
      shape = (1,) * (x.ndim - 1) + (d,)
      y = x - mean.reshape(shape)
      factor = jax.lax.rsqrt(var.reshape(shape) + self.epsilon)
      y = y * (factor * scale.reshape(shape)) + bias.reshape(shape)
      return y.astype(dtype)

    if self.use_running_average:
      return normalise(x, running_mean.value, running_var.value)

    def standardised(x: Array) -> tuple[Array, Array, Array]:
      wide = jnp.promote_types(self.dtype or x.dtype, jnp.float32)
      mean, var = statistics(x, wide)
      return normalise(x, mean, var), mean, var

    if self.groups == 1 or self.is_initializing():
      y, mean, var = standardised(x)
    else:
      if x.shape[0] % self.groups:
        raise ValueError(
          f"model.norm_groups={self.groups} must divide the {x.shape[0]} rows "
          "of each call of the model"
        )
      parts = x.reshape(self.groups, -1, *x.shape[1:])
      y, means, variances = jax.vmap(standardised)(parts)
      y = y.reshape(x.shape)
      mean, var = means.mean(axis=0), variances.mean(axis=0)
    if not self.is_initializing():
      old, new = self.momentum, 1 - self.momentum
      # A step must not change the dtypes of the state.
      for running, now in ((running_mean, mean), (running_var, var)):
        moved = old * running.value + new * now
        running.value = moved.astype(running.value.dtype)
    return y
