import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import rng
from jssl.models.backbone import from_linen


class Noisy(nn.Module):
  """Mean of each image, plus noise drawn from its key if there are keys."""

  @nn.compact
  def __call__(self, images, train, keys=None):
    del train
    bias = self.param("bias", nn.initializers.zeros, (1,))
    h = images.mean(axis=(1, 2)) + bias[None]
    if keys is not None:
      h = h + jax.vmap(lambda key: jax.random.normal(key, (1,)))(keys)
    return h


BACKBONE = from_linen(Noisy(), 1, mean=(0.0,), std=(1.0,))
VARIABLES = {"params": {"bias": jnp.zeros(1)}}
KEYS = rng.per_row(jax.random.key(0), 6)
IMAGES = np.random.default_rng(0).random((6, 2, 2, 1), np.float32)


def test_each_image_uses_its_own_key():
  (h, *_), _ = BACKBONE.apply(VARIABLES, IMAGES, train=True, keys=KEYS)
  noise = jax.vmap(lambda key: jax.random.normal(key, (1,)))(KEYS)
  np.testing.assert_allclose(
    h, IMAGES.mean((1, 2)) + noise, rtol=1e-5, atol=1e-6
  )
  (chunk, *_), _ = BACKBONE.apply(
    VARIABLES, IMAGES[2:4], train=True, keys=KEYS[2:4]
  )
  np.testing.assert_array_equal(chunk, h[2:4])


@pytest.mark.parametrize(
  "how", [{"train": True}, {"train": False}, {"train": False, "keys": KEYS}]
)
def test_no_randomness_in_evaluation_or_without_keys(how):
  (h, *_), _ = BACKBONE.apply(VARIABLES, IMAGES, **how)
  np.testing.assert_allclose(h, IMAGES.mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize("keys", [KEYS[0], KEYS[:3], jax.random.key_data(KEYS)])
def test_wrong_number_of_keys_is_an_error(keys):
  with pytest.raises(ValueError, match=r"keys of shape .* one typed key"):
    BACKBONE.apply(VARIABLES, IMAGES, train=True, keys=keys)


@pytest.mark.parametrize("std", [0.0, float("inf"), float("nan")])
def test_a_deviation_that_is_not_positive_is_an_error(std):
  with pytest.raises(ValueError, match=r"model.std\[0\]=.* must be"):
    from_linen(Noisy(), 1, mean=(0.0,), std=(std,))
