"""Encodes a batch at once or in chunks that bound the memory of activations.

A loss over the whole batch needs all features, but not all activations of the
backbone at the same time. In chunks, a first pass computes features without a
gradient, the loss gives their cotangents, and a second pass differentiates each
chunk (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup", 2021). The gradient is exact.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jssl.objectives.encode import (
  EncodedBatch,
  Encoder,
  Hidden,
  Rows,
  Teachers,
  statistics_of,
)
from jssl.typing import PyTree, Variables


def split(tree: PyTree, parts: int, shards: int, axis: int = 0) -> PyTree:
  """Splits a batch axis into parts with equally many rows of every device.

  Device i has rows [i b/shards, (i + 1) b/shards); no row moves between them.
  Arrays with b rows on `axis` get a new first axis of size `parts`, and have
  b / parts rows; parts * shards divides b.
  """

  def cut(x: Array) -> Array:
    before, b, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    x = x.reshape(*before, shards, parts, b // (shards * parts), *after)
    x = jnp.moveaxis(x, axis + 1, 0)
    return x.reshape(parts, *before, b // parts, *after)

  return jax.tree.map(cut, tree)


def join(tree: PyTree, shards: int, axis: int = 0) -> PyTree:
  """Inverse of `split`."""

  def put(x: Array) -> Array:
    parts, *shape = x.shape
    before, b, after = shape[:axis], shape[axis], shape[axis + 1 :]
    x = x.reshape(parts, *before, shards, b // shards, *after)
    x = jnp.moveaxis(x, 0, axis + 1)
    return x.reshape(*before, parts * b, *after)

  return jax.tree.map(put, tree)


def encode_with_pullback(
  encoder: Encoder,
  variables: Variables,
  teachers: Teachers,
  rows: Rows,
  *,
  chunks: int = 1,
  shards: int = 1,
) -> tuple[EncodedBatch, Callable[[Hidden], PyTree]]:
  """Encodes a batch and returns its pullback.

  Batch statistics are those of each chunk; running averages take their mean.

  Args:
    encoder: see `jssl.objectives.encode`.
    variables: variables of the backbone.
    teachers: variables of the averaged backbone, and of its frozen copy.
    rows: the batch.
    chunks: number of chunks; 1 keeps all activations.
    shards: number of devices that the batch is split over.

  Returns:
    The batch, and the function from cotangents of the student's features to the
    gradient of the backbone's parameters.
  """

  def of_params(params: PyTree, part: Rows) -> tuple[Hidden, EncodedBatch]:
    encoded = encoder({**variables, "params": params}, teachers, part)
    return encoded.features.student, encoded

  params = variables["params"]
  if chunks == 1:
    _, pull, encoded = jax.vjp(
      lambda p: of_params(p, rows), params, has_aux=True
    )
    return encoded, lambda cotangents: pull(cotangents)[0]

  parts = split(rows, chunks, shards)

  def forward(total: PyTree, part: Rows) -> tuple[PyTree, Any]:
    features, *statistics = encoder(variables, teachers, part)
    total = jax.tree.map(lambda t, s: t + s / chunks, total, statistics)
    return total, features

  statistics: Any = [
    statistics_of(variables),
    tuple(statistics_of(teacher) for teacher in teachers),
  ]
  zeros = jax.tree.map(jnp.zeros_like, statistics)
  statistics, features = jax.lax.scan(forward, zeros, parts)
  features = join(features, shards, axis=1)

  def pullback(cotangents: Hidden) -> PyTree:
    def backward(total: PyTree, part: Any) -> tuple[PyTree, None]:
      part_rows, part_cotangents = part
      _, pull = jax.vjp(lambda p: of_params(p, part_rows)[0], params)
      return jax.tree.map(jnp.add, total, pull(part_cotangents)[0]), None

    total, _ = jax.lax.scan(
      backward,
      jax.tree.map(jnp.zeros_like, params),
      (parts, split(cotangents, chunks, shards, axis=1)),
    )
    return total

  return EncodedBatch(features, *statistics), pullback
