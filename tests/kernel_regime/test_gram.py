import jax
import numpy as np
import pytest

from jssl.kernel_regime import memory
from jssl.kernel_regime.convolutional import ConvGP
from jssl.kernel_regime.dense import RBF
from jssl.kernel_regime.gram import gram
from jssl.mesh import make_mesh


def points(n=11, d=3, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def rbf(x, y):
  x, y = x.astype(np.float64), y.astype(np.float64)
  return np.exp(-np.sum((x[:, None] - y[None]) ** 2, axis=2) / 2)


@pytest.mark.parametrize("devices", [None, (8, 1), (4, 2)])
@pytest.mark.parametrize("block_rows", [3, None])
def test_blocks_and_meshes_change_nothing(devices, block_rows):
  mesh = devices and make_mesh(*devices)
  x, y = points(19), points(10, seed=1)
  k = gram(RBF(1.0), x, block_rows=block_rows, mesh=mesh)
  assert k.dtype == np.float64
  np.testing.assert_allclose(k, rbf(x, x), rtol=1e-13)
  np.testing.assert_array_equal(k, k.T)
  across = gram(RBF(1.0), x, y, block_rows=block_rows, mesh=mesh)
  np.testing.assert_allclose(across, rbf(x, y), rtol=1e-13)


def test_images_in_blocks_on_a_mesh():
  x = np.random.default_rng(0).uniform(size=(9, 3, 3, 1))
  kernel = ConvGP(1)
  whole = gram(kernel, x)
  blocks = gram(kernel, x, block_rows=2, mesh=make_mesh(8, 1))
  np.testing.assert_allclose(blocks, whole, rtol=1e-12)
  np.testing.assert_array_equal(np.linalg.eigvalsh(whole) > 0, True)


def test_float64_stays_within():
  gram(RBF(1.0), points())
  assert jax.numpy.ones(1).dtype == np.float32


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("arguments", "error", "message"),
  [
    ((np.full((3, 2), np.nan),), ValueError, "3 of 3 points"),
    ((np.ones((4, 2)),), ValueError, "All 4 points of x are identical"),
    ((np.ones((4, 2), int),), TypeError, "x must be floating"),
    ((points(), points(d=4)), ValueError, "of one shape"),
    ((np.ones(3),), ValueError, "x must be points"),
    ((np.ones((0, 3)),), ValueError, "x must be points"),
    ((points(), np.full((2, 3), np.inf)), ValueError, "y: 2 of 2"),
  ],
)
def test_bad_points_are_refused(arguments, error, message):
  with pytest.raises(error, match=message):
    gram(RBF(1.0), *arguments)


def test_values_that_overflow_are_told():
  def product(x, y):
    return x @ y.T

  class Product(RBF):
    def __call__(self, x, y):
      return product(x, y)

  with pytest.raises(
    ValueError, match=r"non-finite values .*: points are too large"
  ):
    gram(Product(1.0), np.array([[1e200], [1.0]]))


def test_more_points_than_memory_are_refused():
  x = np.ones((1000, 1)) * np.arange(1000)[:, None]
  limit = memory.gram_gib(500)
  np.testing.assert_allclose(limit, 8 * 500**2 / 2**30)
  with (
    memory.memory_limit(limit),
    pytest.raises(ValueError, match=r"1000 x 1000 points needs"),
  ):
    gram(RBF(1.0), x)
  with (
    memory.memory_limit(memory.gram_gib(999, 100)),
    pytest.raises(ValueError, match=r"1000 x 100 points needs"),
  ):
    gram(RBF(1.0), x, x[:100])
  with (
    pytest.raises(ValueError, match=r"memory_limit\(0"),
    memory.memory_limit(0.0),
  ):
    pass
  # Nothing of this size is made before it is refused.
  with pytest.raises(ValueError, match=r"needs 7.45e\+05 GiB"):
    memory.check_memory("A Gram matrix", memory.gram_gib(10**7))
