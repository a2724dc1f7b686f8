"""Encodes a batch at once or in chunks that bound the memory of activations.

A loss over the whole batch needs all features, but not all activations of the
backbone at the same time. In chunks, a first pass computes features without a
gradient, the loss gives their cotangents, and a second pass differentiates each
chunk (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup", 2021). The gradient is exact.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import rng
from jssl.augment import Augment, views
from jssl.models.backbone import Backbone
from jssl.typing import Key, Keys, Pixels, PyTree, Step, Variables, Views

Hidden = tuple[Float[Array, "_v b d"], ...]
"""Features, one array per resolution."""


class Rows(NamedTuple):
  """Images of a batch with their keys for augmentation and stochastic depth."""

  images: Pixels
  augment_keys: Keys
  model_keys: Keys


def rows_of(images: Pixels, root: Key, step: Step) -> Rows:
  """Draws the keys of a step."""
  augment_keys, model_keys = (
    rng.per_row(rng.stream(root, name, step), len(images))
    for name in ("augment", "model")
  )
  return Rows(images, augment_keys, model_keys)


class Encoded(NamedTuple):
  """Features of a batch and updated batch statistics.

  Attributes:
    student: features of the backbone.
    teacher: features of the averaged backbone, large crops only; () without it.
    statistics: variables of the backbone besides its parameters.
    teacher_statistics: those of the averaged backbone; {} without it.
  """

  student: Hidden
  teacher: Hidden
  statistics: Variables
  teacher_statistics: Variables


def _statistics(variables: Variables) -> Variables:
  return {name: x for name, x in variables.items() if name != "params"}


def encode(
  backbone: Backbone,
  variables: Variables,
  images: tuple[Views, ...],
  keys: Keys | None,
) -> tuple[Hidden, Variables]:
  """Runs the backbone once per resolution.

  The views of an image stay together, [b * v, ...]: on a mesh, each device
  flattens its own rows. Batch statistics are over all views of a resolution.
  `keys` has one key per image; None disables stochastic depth.

  Returns:
    [v, b, d] per resolution, and variables with new batch statistics.
  """
  features, first = [], 0
  for x in images:
    v, b = x.shape[:2]
    numbers = jnp.arange(first, first + v)
    per_view = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    flat = x.swapaxes(0, 1).reshape(b * v, *x.shape[2:])
    view_keys = None if keys is None else per_view(keys, numbers).reshape(-1)
    h, variables = backbone.apply(variables, flat, train=True, keys=view_keys)
    features.append(h.reshape(b, v, -1).swapaxes(0, 1))
    first += v
  return tuple(features), variables


Encoder = Callable[[Variables, Variables, Rows], Encoded]
"""`(variables, teacher's variables or {}, rows) -> features`."""


def make_encoder(
  backbone: Backbone, augment: Augment, num_views: int
) -> Encoder:
  """Returns a function that augments and encodes rows."""

  def encoder(variables: Variables, teacher: Variables, rows: Rows) -> Encoded:
    images = views(augment, rows.augment_keys, rows.images, num_views)
    teacher_h: Hidden = ()
    if teacher:
      # Own batch statistics and no stochastic depth, as in official code.
      teacher_h, teacher = encode(backbone, teacher, images[:1], None)
    h, variables = encode(backbone, variables, images, rows.model_keys)
    return Encoded(
      h,
      jax.lax.stop_gradient(teacher_h),
      _statistics(variables),
      _statistics(teacher),
    )

  return encoder


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
  teacher: Variables,
  rows: Rows,
  *,
  chunks: int = 1,
  shards: int = 1,
) -> tuple[Encoded, Callable[[Hidden], PyTree]]:
  """Encodes a batch and returns its pullback.

  Batch statistics are those of each chunk; running averages take their mean.

  Args:
    encoder: see `make_encoder`.
    variables: variables of the backbone.
    teacher: variables of the averaged backbone, or {}.
    rows: the batch.
    chunks: number of chunks; 1 keeps all activations.
    shards: number of devices that the batch is split over.

  Returns:
    The features, and the function from cotangents of the student's features to
    the gradient of the backbone's parameters.
  """

  def of_params(params: PyTree, part: Rows) -> tuple[Hidden, Encoded]:
    encoded = encoder({**variables, "params": params}, teacher, part)
    return encoded.student, encoded

  params = variables["params"]
  if chunks == 1:
    _, pull, encoded = jax.vjp(
      lambda p: of_params(p, rows), params, has_aux=True
    )
    return encoded, lambda cotangents: pull(cotangents)[0]

  parts = split(rows, chunks, shards)

  def forward(total: PyTree, part: Rows) -> tuple[PyTree, Any]:
    student, teacher_h, *statistics = encoder(variables, teacher, part)
    total = jax.tree.map(lambda t, s: t + s / chunks, total, statistics)
    return total, (student, teacher_h)

  statistics = [_statistics(variables), _statistics(teacher)]
  zeros = jax.tree.map(jnp.zeros_like, statistics)
  statistics, hidden = jax.lax.scan(forward, zeros, parts)
  student, teacher_h = join(hidden, shards, axis=1)

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

  return Encoded(student, teacher_h, *statistics), pullback
