"""Nearest images of a query in a file of embeddings."""

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jssl.diagnostics import nearest_neighbours
from jssl.diagnostics.neighbours import Similarity
from jssl.embed.store import Embeddings

# Names to compare with a wrong one.
_MAX_COMPARED = 100_000


def find_row(embeddings: Embeddings, query: str) -> int:
  """Returns the row of an image by its file name, or else by its index.

  Raises:
    ValueError: if there is no such image.
  """
  if query in embeddings.names:
    return embeddings.names.index(query)
  if query.isdecimal():
    found = np.flatnonzero(embeddings.rows == int(query))
    if found.size:
      return int(found[0])
  names = [name for name in embeddings.names[:_MAX_COMPARED] if name]
  close = difflib.get_close_matches(query, names)
  hint = f"; did you mean {' or '.join(close)}?" if close else ""
  raise ValueError(
    f"--query={query}: expected a file name in the file, or an index from "
    f"{embeddings.rows.min()} to {embeddings.rows.max()} of an image that "
    f"could be read{hint}"
  )


def table(
  embeddings: Embeddings,
  queries: Sequence[str],
  *,
  k: int,
  similarity: Similarity = "cosine",
) -> list[dict[str, Any]]:
  """Returns a row for each of the k nearest images of each query.

  A query is not its own neighbour.

  Args:
    embeddings: images to search.
    queries: file names or indices, see `find_row`.
    k: number of neighbours, less than the number of images.
    similarity: "cosine" or "dot".
  """
  if not 1 <= k < len(embeddings.rows):
    raise ValueError(
      f"--k={k}: expected 1 to {len(embeddings.rows) - 1}, the number of "
      "other images"
    )
  own = [find_row(embeddings, query) for query in queries]
  found = nearest_neighbours(
    embeddings.features[own],
    embeddings.features,
    k=k + 1,
    similarity=similarity,
  )
  rows = []
  for query, itself, values, nearest in zip(queries, own, *found, strict=True):
    others = np.flatnonzero(nearest != itself)[:k]
    for rank, i in enumerate(others.tolist(), 1):
      row = int(nearest[i])
      rows.append(
        {
          "query": query,
          "rank": rank,
          similarity: float(values[i]),
          "index": int(embeddings.rows[row]),
          "name": embeddings.names[row],
          **({"class": embeddings.classes[row]} if embeddings.classes else {}),
        }
      )
  return rows
