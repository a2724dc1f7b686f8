import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import augment as oracle
from scipy import stats

from jssl.augment import colour


@pytest.mark.parametrize("channels", [1, 3])
def test_solarize_equals_the_loops(x64, channels):
  images = np.random.default_rng(0).random((2, 5, 6, channels))
  images[0, 0, 0] = 0.6
  keys = jax.random.split(jax.random.key(0), 2)
  got = colour.random_solarize(keys, images, probability=1.0, threshold=0.6)
  for one, image in zip(got, images, strict=True):
    np.testing.assert_allclose(
      one, oracle.solarize(image, 0.6), rtol=0, atol=1e-15
    )


def test_probability():
  n = 3000
  got = colour.random_solarize(
    jax.random.split(jax.random.key(0), n),
    jnp.ones((n, 1, 1, 1)),
    probability=0.2,
    threshold=0.5,
  )
  assert stats.binomtest(int((got == 0).sum()), n, 0.2).pvalue > 1e-3
