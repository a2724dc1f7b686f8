"""NNCLR (Dwibedi et al., ICCV 2021): the positive is a nearest neighbour.

State: batch statistics, a queue of projections. Stop-gradient: the neighbours,
which come from the queue. In the paper: temperature 0.1, queue size 98,304,
projector 2048-2048-256 with a norm after each layer, predictor 4096-256, LARS
at 0.3 b/256, decay 1e-6, batch 4096, 1000 epochs.

Paper: arXiv:2104.14548
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import losses
from jssl.models.heads import Head
from jssl.models.tokens import Spec
from jssl.objectives import queue
from jssl.objectives.base import Aux, Features
from jssl.objectives.projector import PredictorObjective
from jssl.typing import Key, Positive, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class NNCLR(PredictorObjective):
  """NNCLR; `objective.name="nnclr"` in a config.

  Attributes:
    temperature: temperature of InfoNCE.
    queue_size: number of projections in the queue, a multiple of the batch
      size.
    projector: head that maps features to z; neighbours are searched in z.
  """

  temperature: Positive[float] = 0.1
  queue_size: Positive[int] = 98_304
  projector: Head = Head((2048, 2048), 256, last_norm="affine")
  predictor: Head = Head((4096,), 256)

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns head parameters; state with a queue of random directions."""
    first, second = jax.random.split(key)
    params, state = super().init(first, spec)
    width = self.projector.width(spec.feature_dim)
    state["queue"] = queue.full(second, self.queue_size, width)
    return params, state

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """InfoNCE of predictions with nearest neighbours of the other view."""
    (p1, p2), z, state = self.predict(head_params, state, features)
    (z1, z2), bank = jax.lax.stop_gradient((z, state["queue"].rows))
    near1, near2 = _nearest(z1, bank), _nearest(z2, bank)
    # Symmetric in views and in queries and keys (eq. 4 and the text below).
    info_nce = functools.partial(
      losses.info_nce, temperature=self.temperature, symmetric=True
    )
    loss = info_nce(near1, p2) + info_nce(near2, p1)
    state["queue"] = queue.push(state["queue"], z1)
    return loss / 2, Aux({}, state)


def _nearest(
  z: Float[Array, "b d"], bank: Float[Array, "q d"]
) -> Float[Array, "b d"]:
  """Returns the most similar row of the bank for each row of z.

  Scans the bank in tiles of at most b rows, with float32 scores.
  """
  b, d = z.shape

  def scan_tile(
    best: tuple[Float[Array, "b"], Float[Array, "b d"]],
    tile: Float[Array, "t d"],
  ) -> tuple[tuple[Array, Array], None]:
    similarity, row = best
    scores = jnp.matmul(z, tile.T, precision=jax.lax.Precision.HIGHEST)
    highest = scores.max(axis=1)
    candidate = tile[jnp.argmax(scores, axis=1)]
    row = jnp.where((highest > similarity)[:, None], candidate, row)
    return (jnp.maximum(highest, similarity), row), None

  start = jnp.full(b, -jnp.inf, z.dtype), jnp.zeros((b, d), bank.dtype)
  tiles = bank.reshape(-1, math.gcd(b, len(bank)), d)
  (_, nearest), _ = jax.lax.scan(scan_tile, start, tiles)
  return nearest
