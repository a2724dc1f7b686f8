import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.diagnostics import blocks


@jax.jit
def summed(counted, x, y):
  weight = jnp.where(counted, y, 0)
  return {"rows": counted.sum(), "weighted": weight @ x.reshape(len(x), -1)}


def test_sums_are_those_of_all_rows(mesh):
  rng = np.random.default_rng(0)
  # With blocks of 25 rows of features: 8 images of 3 views, 5 blocks.
  x = rng.normal(size=(37, 3, 2)).astype(np.float32)
  y = rng.normal(size=37).astype(np.float32)
  total = blocks.sums(summed, x, y, mesh=mesh)
  assert total["rows"] == 37
  assert total["weighted"].dtype == np.float64
  expected = sum(
    b * a.astype(np.float64).ravel() for a, b in zip(x, y, strict=True)
  )
  np.testing.assert_allclose(total["weighted"], expected, rtol=1e-5, atol=1e-6)


def test_a_long_sum_does_not_stop_growing():
  # 2^24 + 1 is not representable in float32.
  sizes = np.array([2.0**24, 1.0, 1.0], np.float32)
  total = blocks.sums(
    jax.jit(lambda counted, x: x.sum()), sizes[:, None], block_rows=1
  )
  assert total == 2**24 + 2


@pytest.mark.usefixtures("unchecked")
def test_arrays_of_different_lengths_are_an_error():
  for arrays in ([np.ones((3, 1)), np.ones(2)], [np.ones((0, 2))]):
    with pytest.raises(ValueError, match="same number of rows, at least 1"):
      blocks.sums(summed, *arrays)


def test_block_size_counts_views_as_rows():
  rows = blocks.BLOCK_ROWS
  for shape, images in (((3,), rows), ((3, 4), rows), ((3, 4, 2), rows // 4)):
    assert blocks.block_images(np.zeros(shape)) == images
  assert blocks.block_images(np.zeros((3, 2 * rows, 2))) == 1
  assert blocks.tile_rows(2 * blocks.TILE) == 1
  assert blocks.tile_side() ** 2 <= blocks.TILE < (blocks.tile_side() + 1) ** 2
