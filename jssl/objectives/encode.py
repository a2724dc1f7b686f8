"""From a batch of images to the inputs of an objective.

Augments each image, masks its large views where the objective asks for it, and
runs the backbone and, if there is one, the averaged backbone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jssl import rng
from jssl.augment import Augment, mix, views
from jssl.models.backbone import Backbone
from jssl.models.tokens import Encoded, Mask
from jssl.objectives.base import Features, Objective
from jssl.typing import Key, Keys, Pixels, PyTree, Step, Variables, Views

Hidden = tuple[Encoded, ...]
"""Features, one entry per resolution."""


class Rows(NamedTuple):
  """Images of a batch with their keys of augmentation, model and masks.

  `partners` are the images and augmentation keys to mix in; None for none.
  """

  images: Pixels
  augment_keys: Keys
  model_keys: Keys
  mask_keys: Keys
  partners: tuple[Pixels, Keys] | None = None


def rows_of(
  images: Pixels, root: Key, step: Step, *, mixed: bool = False
) -> Rows:
  """Draws the keys of a step; partners are the batch in reverse order."""
  augment, model, mask = (
    rng.per_row(rng.stream(root, name, step), len(images))
    for name in ("augment", "model", "mask")
  )
  # Rows of their own, because a partner may be in another chunk.
  partners = (images[::-1], augment[::-1]) if mixed else None
  return Rows(images, augment, model, mask, partners)


class EncodedBatch(NamedTuple):
  """Features of a batch and updated batch statistics.

  Attributes:
    features: inputs of the objective, without labels.
    statistics: variables of the backbone besides its parameters.
    teacher_statistics: those of each teacher.
  """

  features: Features
  statistics: Variables
  teacher_statistics: tuple[Variables, ...]


def statistics_of(variables: Variables) -> Variables:
  """Returns all collections but the parameters."""
  return {name: x for name, x in variables.items() if name != "params"}


def _of_views(keys: Keys, views: int, first: int = 0) -> Keys:
  """Returns one key per view, grouped by image: [b * v]."""
  numbers = jnp.arange(first, first + views)
  per_view = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
  return per_view(keys, numbers).reshape(-1)


def _by_view(tree: PyTree, views: int) -> PyTree:
  """Returns arrays [b * v, ...] as [v, b, ...]."""
  return jax.tree.map(
    lambda x: x.reshape(-1, views, *x.shape[1:]).swapaxes(0, 1), tree
  )


def encode(
  backbone: Backbone,
  variables: Variables,
  images: tuple[Views, ...],
  keys: Keys | None,
  *,
  tokens: bool = False,
  mask: Mask | None = None,
) -> tuple[Hidden, Variables]:
  """Runs the backbone once per resolution.

  The views of an image stay together, [b * v, ...]: on a mesh, each device
  flattens its own rows. Batch statistics are over all views of a resolution.

  Args:
    backbone: the encoder.
    variables: its variables.
    images: views of each resolution, large crops first.
    keys: one key per image; None disables stochastic depth.
    tokens: True to return patch tokens of the large crops.
    mask: mask of the large crops, [b * v, ...].

  Returns:
    Features [v, b, ...] per resolution, and variables with new batch
    statistics.
  """
  features, first = [], 0
  for i, x in enumerate(images):
    v, b = x.shape[:2]
    flat = x.swapaxes(0, 1).reshape(b * v, *x.shape[2:])
    asked: dict[str, Any] = {}
    if tokens and not i:
      asked["tokens"] = True
    if mask is not None and not i:
      asked["mask"] = mask
    encoded, variables = backbone.apply(
      variables,
      flat,
      train=True,
      keys=None if keys is None else _of_views(keys, v, first),
      **asked,
    )
    features.append(_by_view(encoded, v))
    first += v
  return tuple(features), variables


Teachers = tuple[Variables, ...]
"""The averaged backbone, and its frozen copy if there is one; () without."""
Encoder = Callable[[Variables, Teachers, Rows], EncodedBatch]
"""`(variables, teachers, rows) -> features`."""


def make_encoder(
  backbone: Backbone, augment: Augment, objective: Objective
) -> Encoder:
  """Returns a function that augments, masks and encodes rows."""

  def encoder(
    variables: Variables, teachers: Teachers, rows: Rows
  ) -> EncodedBatch:
    v = objective.num_views
    images = views(augment, rows.augment_keys, rows.images, v)
    own_weight = None
    if rows.partners is not None:
      pixels, keys = rows.partners
      partners, *_ = views(augment, keys, pixels, v)
      mixed, own_weight = mix(augment, rows.augment_keys, images[0], partners)
      images = (mixed, *images[1:])
    large = images[0]
    # Own batch statistics and no stochastic depth, as in official code.
    encoded = [
      encode(backbone, teacher, images[:1], None, tokens=objective.uses_tokens)
      for teacher in teachers
    ]
    teacher_h = tuple(h for (h,), _ in encoded)
    grid = backbone.grid(large.shape[2:])
    mask = None
    if grid is not None:
      mask = objective.hide(_of_views(rows.mask_keys, v), grid)
    h, variables = encode(
      backbone,
      variables,
      images,
      rows.model_keys,
      tokens=objective.uses_tokens,
      mask=mask,
    )
    features = Features(
      h,
      jax.lax.stop_gradient(teacher_h),
      _by_view(mask, v),
      backbone.standardize(large) if objective.uses_pixels else None,
      grid,
      own_weight=own_weight,
    )
    return EncodedBatch(
      features,
      statistics_of(variables),
      tuple(statistics_of(teacher) for _, teacher in encoded),
    )

  return encoder
