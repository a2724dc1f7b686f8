import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import augment as oracle
from scipy import stats

from jssl.augment import blur


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel_px", [1, 3, 7, 13])
def test_blur_equals_the_loops(x64, channels, kernel_px):
  images = np.random.default_rng(0).random((3, 9, 7, channels))
  sigmas = np.array([0.1, 1.0, 2.5])
  run = jax.jit(blur.blur, static_argnames="kernel_px")
  got = run(images, sigmas, kernel_px=kernel_px)
  assert got.dtype == jnp.float64
  for one, image, sigma in zip(got, images, sigmas, strict=True):
    want = oracle.gaussian_blur(image, kernel_px, sigma)
    np.testing.assert_allclose(one, want, rtol=0, atol=1e-12)


def test_blur_keeps_a_constant_and_the_unit_interval():
  got = blur.blur(jnp.ones((2, 28, 28, 1)), jnp.array([0.1, 2.0]), kernel_px=5)
  np.testing.assert_allclose(got, 1.0, rtol=1e-6)


def test_probability_and_sigma():
  n, point = 3000, jnp.zeros((1, 7, 7, 1)).at[0, 3, 3].set(1.0)
  got = jax.jit(
    lambda keys: blur.random_blur(
      keys,
      jnp.tile(point, (n, 1, 1, 1)),
      probability=0.4,
      kernel_px=3,
      sigmas=(0.5, 2.0),
    )
  )(jax.random.split(jax.random.key(0), n))
  centre, beside = np.asarray(got, np.float64)[:, 3, 3:5, 0].T
  blurred = beside > 0
  assert stats.binomtest(int(blurred.sum()), n, 0.4).pvalue > 1e-3
  np.testing.assert_array_equal(centre[~blurred], 1)
  # Neighbouring taps are exp(-1 / (2 sigma^2)) apart.
  sigma = np.sqrt(-0.5 / np.log(beside[blurred] / centre[blurred]))
  assert stats.kstest(sigma, stats.uniform(0.5, 1.5).cdf).pvalue > 1e-3
