"""The bridge study: trains a linear map and compares it with the closed form.

A linear map of features phi with phi(x).phi(y) = k(x, y) at the N points is in
the RKHS of the closed forms, so the train step with the same loss must reach
the same minimum and, if the optimum is unique, the same induced kernel on
unseen images. phi is determined up to a rotation: the `principal` basis is
along the eigenvectors of K, `root` are the rows of K^1/2. An optimizer that
scales each coordinate converges at different speeds. A workdir has
`config.json`, `bridge.json`, `bridge.md` and `bridge.svg`.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jssl.augment import Augment
from jssl.config.build import build_optimizer
from jssl.config.parse import to_dict
from jssl.kernel_regime import losses
from jssl.kernel_regime.embedding import induced_kernel
from jssl.kernel_regime.objectives import (
  KernelContrastive,
  KernelNonContrastive,
  KernelRegime,
)
from jssl.kernel_regime.psd import Gram, with_jitter
from jssl.kernel_regime.solvers import Map, solve
from jssl.kernel_regime.study import dataset, figures
from jssl.kernel_regime.study.config import BASES, Basis, Bridge, KernelStudy
from jssl.kernel_regime.study.dataset import GramMatrices
from jssl.kernel_regime.targets import Ids
from jssl.models.backbone import Backbone
from jssl.models.tokens import Encoded
from jssl.optim import Optim
from jssl.optim.bilevel import HeadStrategy
from jssl.report.charts import as_svg
from jssl.report.tables import markdown_table
from jssl.report.write import write
from jssl.runtime.workdir import claim_workdir
from jssl.train.state import init_state
from jssl.train.step import make_train_step
from jssl.typing import Batch, Images, Key, Keys, Variables

# Relative gap within which a training has reached the closed form.
TOLERANCE = 1e-3
# An image encodes the index of its point, in base 256.
_SIDE_PX, _BASE = 4, 256
_NO_AUGMENTATION = Augment(
  crop_size_px=_SIDE_PX,
  crop_min_area=1.0,
  crop_ratio_min=1.0,
  crop_ratio_max=1.0,
)


def kernel_features(k: Gram, basis: Basis) -> Float[np.ndarray, "n n"]:
  """Features phi of each point, phi phi^T = K, [N, N]."""
  values, vectors = np.linalg.eigh(k)
  principal = vectors * np.sqrt(values)
  return principal if basis == "principal" else principal @ vectors.T


def lookup_backbone(phi: Float[np.ndarray, "n d"]) -> Backbone:
  """Backbone that looks up the features of a point and learns nothing."""
  table = jnp.asarray(phi, jnp.float32)

  def apply(
    variables: Variables,
    images: Images,
    *,
    train: bool,
    keys: Keys | None = None,
  ) -> tuple[Encoded, Variables]:
    digits = jnp.rint(images[:, 0, :2, 0] * (_BASE - 1)).astype(int)
    return Encoded(table[digits[:, 0] * _BASE + digits[:, 1]]), variables

  def init(key: Key, shape: tuple[int, int, int]) -> Variables:
    # The step needs a parameter to differentiate.
    return {"params": {"nothing": jnp.zeros((1, 1))}}

  return Backbone(init, apply, phi.shape[1])


def _batch(image_ids: Ids) -> Batch:
  """All points: images encode the index, labels are image ids."""
  index = np.arange(len(image_ids))
  images = np.zeros((len(index), _SIDE_PX, _SIDE_PX, 1), np.uint8)
  images[:, 0, 0, 0], images[:, 0, 1, 0] = index // _BASE, index % _BASE
  return {"image": images, "label": np.asarray(image_ids, np.int32)}


def _objective(loss: losses.Loss, d_out: int) -> KernelRegime:
  shared: dict[str, Any] = {"num_views": 1, "uses_labels": True}
  if isinstance(loss, losses.NonContrastive):
    return KernelNonContrastive(out_dim=d_out, beta=loss.beta, **shared)
  return KernelContrastive(out_dim=d_out, **shared)


def train(
  k: Gram,
  loss: losses.Loss,
  image_ids: Ids,
  *,
  d_out: int,
  basis: Basis,
  bridge: Bridge,
  seed: int = 0,
) -> tuple[Float[np.ndarray, "t"], Map]:
  """Trains a linear map on full batches of [N, N] features of K.

  Returns the gaps of `Comparison`, and the map M of the embedding M k(X, x).
  """
  phi = kernel_features(k, basis)
  backbone, objective = lookup_backbone(phi), _objective(loss, d_out)
  shape = (_SIDE_PX, _SIDE_PX, 1)
  optimizer = build_optimizer(
    Optim("adam", bridge.learning_rate),
    backbone,
    objective,
    HeadStrategy(),
    shape,
    bridge.steps,
  )
  state = init_state(seed, backbone, objective, optimizer, shape)
  step = jax.jit(
    make_train_step(backbone, objective, _NO_AUGMENTATION, optimizer)
  )
  batch, values = _batch(image_ids), []
  for _ in range(bridge.steps):
    state, metrics = step(state, batch)
    values.append(metrics["loss"])
  w = np.asarray(state.head_params["map"], np.float64)
  m = np.linalg.solve(phi.T, w).T
  values.append(loss.value(phi @ w, image_ids))
  gaps = loss.relative_gap(np.array(values, np.float64), image_ids, d_out)
  return gaps, m


class Comparison(NamedTuple):
  """A training compared with its closed form.

  `gaps` are `Loss.relative_gap` before each step, in float32; a further one is
  of the trained map, in float64. `unseen` is ||k*_trained - k*_closed||_F /
  ||k*_closed||_F on test images, None if the optimum is not unique.
  """

  loss: str
  d_out: int
  basis: Basis
  gaps: Float[np.ndarray, "t"]
  unseen: float | None

  @property
  def name(self) -> str:
    """Loss and dimension."""
    return f"{self.loss}, {self.d_out} dimensions"

  def converged_at(self) -> int | None:
    """Step from which on the gap stays within the tolerance, or None."""
    above = np.flatnonzero(~(self.gaps <= TOLERANCE))
    first = int(above[-1]) + 1 if len(above) else 0
    return first if first < len(self.gaps) else None


def _kernel_difference(
  trained: Map, closed: Map, k_test: Float[np.ndarray, "m n"], centred: bool
) -> float:
  z_trained, z_closed = (k_test @ m.T for m in (trained, closed))
  if centred:
    # The loss is shift invariant, but k* is not.
    z_trained = z_trained - z_trained.mean(0)
    z_closed = z_closed - z_closed.mean(0)
  difference = induced_kernel(z_trained) - induced_kernel(z_closed)
  norm = np.linalg.norm(induced_kernel(z_closed))
  return float(np.linalg.norm(difference) / norm)


def compare(
  grams: GramMatrices,
  loss: losses.Loss,
  d_out: int,
  basis: Basis,
  config: KernelStudy,
) -> Comparison:
  """Trains one map and compares it with its closed form; d_out as in config."""
  views = config.problem.views
  rows = grams.view_rows(views)
  ids = np.repeat(np.arange(len(grams.labels)), views)
  k = with_jitter(grams.k[np.ix_(rows, rows)], config.problem.jitter)
  directions = loss.directions(ids)
  d_out = d_out or directions
  gaps, m = train(k, loss, ids, d_out=d_out, basis=basis, bridge=config.bridge)
  unseen = None
  if d_out == directions:
    closed, k_test = solve(k, loss, ids, d_out=d_out), grams.k_test[:, rows]
    unseen = _kernel_difference(m, closed, k_test, centred=loss.shift_invariant)
  return Comparison(type(loss).__name__, d_out, basis, gaps, unseen)


def _table(comparisons: Sequence[Comparison]) -> str:
  headings = [
    *("loss", "basis", "dimensions", "final gap"),
    f"gap <= {TOLERANCE:g} from step",
    "unseen images: relative difference of k*",
  ]
  rows = [
    [
      *(c.loss, c.basis, str(c.d_out), f"{c.gaps[-1]:.1e}"),
      "never" if (step := c.converged_at()) is None else f"{step:,}",
      "-" if c.unseen is None else f"{c.unseen:.1e}",
    ]
    for c in comparisons
  ]
  return markdown_table(headings, rows)


def run(
  config: KernelStudy,
  workdir: pathlib.Path,
  *,
  command: str,
  log: Callable[[str], None] = lambda line: None,
) -> tuple[str, bool]:
  """Runs the study and writes its results.

  Returns the contents of bridge.md, and True. Raises the errors of `run.run`.
  """
  comparisons = []
  with config.memory_limit():
    grams = dataset.compute_grams(config)
    claim_workdir(to_dict(config), workdir)
    for loss in (losses.Contrastive(), losses.NonContrastive(config.loss.beta)):
      for d_out in config.bridge.d_outs:
        for basis in BASES:
          comparison = compare(grams, loss, d_out, basis, config)
          comparisons.append(comparison)
          log(f"{comparison.name}, {basis}: gap {comparison.gaps[-1]:.1e}")
  text = (
    f"`{command}`: {grams.kernel}, {len(grams.labels)} images with "
    f"{config.problem.views} views, {config.bridge.steps:,} steps.\n\n"
    f"{_table(comparisons)}"
  )
  curves = {
    basis: {c.name: c.gaps for c in comparisons if c.basis == basis}
    for basis in BASES
  }
  figure = figures.gaps(curves, tolerance=TOLERANCE)
  write(
    workdir,
    "bridge",
    text,
    figures={"bridge": as_svg(figure, alt="gap to the closed form over steps")},
    data=[{**c._asdict(), "gaps": c.gaps.tolist()} for c in comparisons],
  )
  return text, True
