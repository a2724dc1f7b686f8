"""NNCLR (Dwibedi et al., ICCV 2021): the positive is a nearest neighbour.

State: batch statistics, a queue of projections. Stop-gradient: the neighbours,
which come from the queue. In the paper: temperature 0.1, queue 98,304,
projector 2048-2048-256 with a norm after each layer, predictor 4096-256, LARS
at 0.3 b/256, decay 1e-6, batch 4096, 1000 epochs.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import losses
from jssl.models.heads import Head, init_heads
from jssl.objectives import queue
from jssl.objectives.base import (
  Aux,
  Features,
  Objective,
  check_positive,
  check_same_width,
)
from jssl.typing import Key, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class NNCLR(Objective):
  """The `objective` section of a config, for `objective.name="nnclr"`.

  Attributes:
    temperature: of InfoNCE.
    queue_size: projections that are kept, a multiple of the batch.
    projector: from h to z; neighbours are among z.
    predictor: from z to what must find the neighbour.
  """

  temperature: float = 0.1
  queue_size: int = 98_304
  projector: Head = Head((2048, 2048), 256, last_norm="affine")
  predictor: Head = Head((4096,), 256)

  def __post_init__(self) -> None:
    check_positive(temperature=self.temperature, queue_size=self.queue_size)

  def init(self, key: Key, feature_dim: int) -> tuple[dict, dict]:
    """Returns both heads' parameters; batch statistics and a random queue."""
    width = self.projector.width(feature_dim)
    check_same_width(projector=width, predictor=self.predictor.width(width))
    first, second = jax.random.split(key)
    params, state = init_heads(
      first,
      {
        "projector": (self.projector, feature_dim),
        "predictor": (self.predictor, width),
      },
    )
    filled = queue.full(second, self.queue_size, width)
    return params, {**state, "queue": filled}

  def loss(
    self,
    head_params: dict,
    state: dict,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """InfoNCE of each prediction with the other view's neighbour."""
    del key, step
    (h,) = features.student
    z, projector = self.projector.apply(
      head_params["projector"], state["projector"], h
    )
    (p1, p2), predictor = self.predictor.apply(
      head_params["predictor"], state["predictor"], z
    )
    (z1, z2), bank = jax.lax.stop_gradient((z, state["queue"].rows))
    near1, near2 = _nearest(z1, bank), _nearest(z2, bank)
    # Neighbours look for predictions: both views, both ways (eq. 4 and after).
    info_nce = functools.partial(
      losses.info_nce, temperature=self.temperature, symmetric=True
    )
    loss = info_nce(near1, p2) + info_nce(near2, p1)
    state = {
      "projector": projector,
      "predictor": predictor,
      "queue": queue.push(state["queue"], z1),
    }
    return loss / 2, Aux({}, state)


def _nearest(
  z: Float[Array, "b d"], bank: Float[Array, "q d"]
) -> Float[Array, "b d"]:
  """Returns the row of the bank that is most similar to each row.

  As many rows of the bank at a time as there are in a batch, and in float32:
  neighbours are near each other.
  """
  b, d = z.shape

  def nearer(
    best: tuple[Float[Array, "b"], Float[Array, "b d"]],
    tile: Float[Array, "t d"],
  ) -> tuple[tuple[Array, Array], None]:
    similarity, row = best
    scores = jnp.matmul(z, tile.T, precision=jax.lax.Precision.HIGHEST)
    found = scores.max(axis=1)
    near = tile[jnp.argmax(scores, axis=1)]
    row = jnp.where((found > similarity)[:, None], near, row)
    return (jnp.maximum(found, similarity), row), None

  start = jnp.full(b, -jnp.inf, z.dtype), jnp.zeros((b, d), bank.dtype)
  tiles = bank.reshape(-1, math.gcd(b, len(bank)), d)
  (_, nearest), _ = jax.lax.scan(nearer, start, tiles)
  return nearest
