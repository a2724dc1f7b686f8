import numpy as np
import pytest

from jssl.embed.search import find_row, table
from jssl.embed.store import Embeddings

ROWS = 30


@pytest.fixture
def embeddings():
  features = np.random.default_rng(0).normal(size=(ROWS, 5)).astype(np.float32)
  features[7] = features[4]
  return Embeddings(
    names=(*(f"{i}.png" for i in range(ROWS - 1)), None),
    # Image 3 could not be read.
    rows=np.array([i for i in range(ROWS + 1) if i != 3]),
    classes=("cat",) * ROWS,
    features=features,
    about={},
  )


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_neighbours_are_those_of_numpy(embeddings, similarity):
  queries = ["4.png", "8", "29"]
  rows = [find_row(embeddings, query) for query in queries]
  assert rows == [4, 7, 28]
  h = embeddings.features.astype(np.float64)
  if similarity == "cosine":
    h /= np.linalg.norm(h, axis=1, keepdims=True)
  expected = []
  for query, row in zip(queries, rows, strict=True):
    values = h @ h[row]
    others = [
      i for i in np.argsort(-values, kind="stable").tolist() if i != row
    ]
    expected += [
      (query, rank, i, values[i]) for rank, i in enumerate(others[:6], 1)
    ]
  found = table(embeddings, queries, k=6, similarity=similarity)
  assert [(row["query"], row["rank"]) for row in found] == [
    (query, rank) for query, rank, _, _ in expected
  ]
  nearest = [i for _, _, i, _ in expected]
  assert [row["index"] for row in found] == embeddings.rows[nearest].tolist()
  assert [row["name"] for row in found] == [
    embeddings.names[i] for i in nearest
  ]
  np.testing.assert_allclose(
    [row[similarity] for row in found], [v for *_, v in expected], atol=1e-5
  )


def test_wrong_queries_are_named(embeddings):
  with pytest.raises(ValueError, match=r"--query=1\.pgn: .*mean 1\.png or"):
    table(embeddings, ["1.pgn"], k=1)
  with pytest.raises(ValueError, match=r"--query=3: .*index from 0 to 30"):
    table(embeddings, ["3"], k=1)
  for k in (0, ROWS):
    with pytest.raises(ValueError, match=rf"--k={k}: expected 1 to {ROWS - 1}"):
      table(embeddings, ["0"], k=k)
