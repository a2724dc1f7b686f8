"""Retrieval of train images of the same class by test images."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.diagnostics import neighbours
from jssl.probe.features import Features
from jssl.probe.records import RetrievalRecord


@jax.jit
def average_precision(
  relevant: Bool[Array, "q k"], total: Int[Array, "q"]
) -> Float[Array, "q"]:
  """Returns the average precision at k of ranked neighbours, nearest first.

      AP@k = 1 / min(k, R) sum_{i <= k} relevant_i precision(i)

  where precision(i) is the share of relevant ones among the first i and R is
  the `total` number of relevant images in the database.

  Reference: Weyand et al. (CVPR 2020, arXiv 2004.01804), section 5.2.
  """
  k = relevant.shape[1]
  precision = jnp.cumsum(relevant, 1) / jnp.arange(1, k + 1)[None]
  return jnp.sum(relevant * precision, 1) / jnp.minimum(k, total)


def retrieval_record(
  train: Features,
  test: Features,
  names: Sequence[str],
  *,
  k: int,
  mesh: Mesh,
  **fields: Any,
) -> RetrievalRecord:
  """Ranks train images by the cosine of features as they are.

  `k` is at most the number of train images; `fields` are those of the record
  that are not measured here.
  """
  k = min(k, len(train.labels))
  found = neighbours.search(
    test.h,
    train.h,
    np.ones(len(train.labels), bool),
    count=k,
    mesh=mesh,
  )
  rows = np.concatenate([block.rows for block in found])[: len(test.labels)]
  in_train = np.bincount(train.labels, minlength=len(names))
  precision = np.asarray(
    average_precision(
      train.labels[rows] == test.labels[:, None], in_train[test.labels]
    )
  )
  images = np.bincount(test.labels, minlength=len(names))
  sums = np.bincount(test.labels, precision, len(names))
  of_class = sums / np.maximum(images, 1)
  return RetrievalRecord(
    neighbours=k,
    mean_average_precision=float(precision.mean()),
    balanced_average_precision=float(of_class[images > 0].mean()),
    names=list(names),
    images=images.tolist(),
    average_precision=of_class.tolist(),
    **fields,
  )
