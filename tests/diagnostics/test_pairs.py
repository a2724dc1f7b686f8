import jax
import numpy as np
import pytest

from jssl.diagnostics import pairs


@jax.jit
def weighted(weights, columns, rows, ids):
  return weights[ids][:, None] * pairs.product(rows, columns.T)


@pytest.mark.parametrize("tile", [2**22, 40, 1])
def test_tiles_are_those_of_all_pairs(mesh, tile, monkeypatch):
  monkeypatch.setattr(pairs, "TILE", tile)
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(37, 3)).astype(np.float32)
  columns = rng.normal(size=(5, 3)).astype(np.float32)
  weights = rng.normal(size=37).astype(np.float32)
  found = pairs.map_tiles(
    weighted, (weights, columns), rows, np.arange(37), row_pairs=5, mesh=mesh
  )
  expected = weights[:, None] * (rows.astype(np.float64) @ columns.T)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
