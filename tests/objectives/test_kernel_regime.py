"""The bridge: a linear map, trained as any method, reaches the closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import build
from jssl.augment import Augment
from jssl.kernels import losses, psd
from jssl.kernels.dense import RBF, median_bandwidth
from jssl.kernels.gram import gram as gram_of
from jssl.models.backbone import Backbone
from jssl.objectives.kernel_regime import (
  KernelContrastive,
  KernelNonContrastive,
)
from jssl.objectives.response import HeadUpdate
from jssl.train.state import init_state
from jssl.train.step import make_train_step

IMAGES, COPIES, D_OUT, STEPS = 20, 3, 6, 1500
IDS = np.repeat(np.arange(IMAGES), COPIES)
SHAPE = (4, 4, 1)
# The whole image: what was augmented are the copies.
AUGMENT = Augment(crop_size_px=4, crop_min_area=1.0, crop_ratio_min=1.0,
                  crop_ratio_max=1.0)  # fmt: skip


@pytest.fixture(scope="module")
def gram():
  draw = np.random.default_rng(0)
  centres = draw.normal(size=(IMAGES, 1, 5))
  points = centres + 0.3 * draw.normal(size=(IMAGES, COPIES, 5))
  x = points.reshape(-1, 5).astype(np.float32)
  kernel = RBF(median_bandwidth(x) / 2)
  return psd.with_jitter(gram_of(kernel, x), 1e-3)


def fixed_features(gram):
  """An encoder that gives each point its row of K^1/2 and learns nothing."""
  values, vectors = np.linalg.eigh(gram)
  root = jnp.asarray((vectors * np.sqrt(values)) @ vectors.T, jnp.float32)

  def apply(variables, images, *, train, keys=None):
    # A point is told by the brightness of its image.
    which = jnp.rint(images[:, 0, 0, 0] * 255).astype(int)
    return root[which], variables

  return Backbone(
    lambda key, shape: {"params": {"nothing": jnp.zeros((1, 1))}},
    apply,
    len(root),
  )


@pytest.mark.parametrize(
  ("objective", "loss"),
  [
    (
      KernelContrastive(out_dim=D_OUT, num_views=1, uses_labels=True),
      losses.Contrastive(),
    ),
    (
      KernelNonContrastive(
        out_dim=D_OUT, num_views=1, uses_labels=True, beta=0.4
      ),
      losses.NonContrastive(beta=0.4),
    ),
  ],
  ids=["contrastive", "non_contrastive"],
)
def test_training_reaches_the_closed_form(gram, objective, loss):
  backbone = fixed_features(gram)
  optim = build.Optim("adam", 0.02)
  chain = build.optimizer(
    optim, backbone, objective, HeadUpdate(), SHAPE, STEPS
  )
  state = init_state(0, backbone, objective, chain, SHAPE)
  step = jax.jit(make_train_step(backbone, objective, AUGMENT, chain))
  points = np.arange(len(IDS), dtype=np.uint8)
  batch = {
    "image": np.broadcast_to(points[:, None, None, None], (len(IDS), *SHAPE)),
    "label": IDS.astype(np.int32),
  }
  first = None
  for _ in range(STEPS):
    state, metrics = step(state, batch)
    first = float(metrics["loss"]) if first is None else first
  least = loss.minimum(IDS, D_OUT)
  norm = np.sum(loss.target(IDS) ** 2)
  bar = 1e-3 * max(abs(least), norm)
  assert first - least > 10 * bar
  assert -1e-5 * norm < float(metrics["loss"]) - least < bar
  # And by the kernel room's own loss, of the map that was learned.
  values, vectors = np.linalg.eigh(gram)
  root = (vectors * np.sqrt(values)) @ vectors.T
  z = root @ np.asarray(state.head_params["map"], np.float64)
  np.testing.assert_allclose(
    loss.of_embedding(z, IDS), metrics["loss"], rtol=1e-3, atol=1e-3
  )
