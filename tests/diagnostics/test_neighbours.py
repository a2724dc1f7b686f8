import numpy as np
import pytest
from oracles import probe as oracle

from jssl import mesh
from jssl.diagnostics import nearest_neighbours, neighbours


def draw(rows, seed, dim=6):
  rng = np.random.default_rng(seed)
  scale = np.geomspace(1, 0.1, dim)
  return (rng.normal(size=(rows, dim)) * scale + 0.5).astype(np.float32)


def joined(blocks, queries):
  return [np.concatenate([b[i] for b in blocks])[:queries] for i in (0, 1)]


@pytest.mark.parametrize("bank_rows", [16, 100, 4096])
def test_nearest_equals_a_loop(bank_rows):
  queries, bank = draw(9, 1), draw(302, 2)
  counted = np.random.default_rng(0).random(len(bank)) < 0.7
  similarity, found = joined(
    neighbours.search(
      queries,
      bank,
      counted,
      count=12,
      mesh=mesh.make_mesh(1, 1),
      bank_rows=bank_rows,
    ),
    len(queries),
  )
  rows = np.flatnonzero(counted)
  for i, query in enumerate(queries):
    expected = oracle.nearest(query, bank[rows].astype(np.float64), 12)
    np.testing.assert_allclose(
      similarity[i], [s for s, _ in expected], atol=1e-6
    )
    np.testing.assert_array_equal(found[i], [rows[j] for _, j in expected])


def test_a_block_of_the_bank_is_scaled_once(monkeypatch):
  monkeypatch.setattr(neighbours, "_QUERY_ROWS", 4)
  queries, bank, scaled = draw(17, 1), draw(48, 2), []

  def scale(rows):
    scaled.append(len(rows))
    return rows

  neighbours.search(
    queries,
    bank,
    np.ones(len(bank), bool),
    count=3,
    mesh=mesh.make_mesh(1, 1),
    scale=scale,
    bank_rows=16,
  )
  assert scaled == [4] * 5 + [16] * 3


def test_scale_of_features_does_not_matter_to_the_cosine():
  queries, bank = draw(203, 1), draw(302, 2)
  scaled = (bank * np.geomspace(1e-3, 1e3, 302)[:, None]).astype(np.float32)
  one, two = (nearest_neighbours(queries, b, k=5) for b in (bank, scaled))
  np.testing.assert_allclose(one.similarity, two.similarity, atol=1e-6)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("devices", [1, 8])
def test_whole_result_equals_numpy(similarity, devices, monkeypatch):
  monkeypatch.setattr(neighbours, "_QUERY_ROWS", 16)
  queries, bank = draw(35, 1), draw(90, 2)
  bank[50] = bank[3]  # Equal rows: the first is nearer.
  found = nearest_neighbours(
    queries,
    bank,
    k=90,
    similarity=similarity,
    mesh=mesh.make_mesh(devices, 1) if devices > 1 else None,
  )
  wide = [x.astype(np.float64) for x in (queries, bank)]
  if similarity == "cosine":
    wide = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in wide]
  expected = wide[0] @ wide[1].T
  order = np.argsort(-expected, axis=1, kind="stable")
  np.testing.assert_array_equal(found.rows, order)
  np.testing.assert_allclose(
    found.similarity, np.take_along_axis(expected, order, 1), atol=2e-6
  )


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_named():
  h = draw(5, 0)
  for k in (0, 6):
    with pytest.raises(ValueError, match=rf"k={k}: expected 1 to 5"):
      nearest_neighbours(h, h, k=k)
  with pytest.raises(ValueError, match="queries of 4 and a bank of 6 columns"):
    nearest_neighbours(h[:, :4], h, k=1)
  bad = h.copy()
  bad[2, 1] = np.nan
  with pytest.raises(ValueError, match="bank: 1 of 5 rows have non-finite"):
    nearest_neighbours(h, bad, k=1)
