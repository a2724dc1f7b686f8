"""The bridge: a linear map that is trained, held against its closed form.

The closed forms of the kernel regime are optima over all functions of an RKHS.
A linear map of features phi with phi(x).phi(y) = k(x, y) at the points, full
rank (Nystrom with all points as landmarks), is such a function, so the train
step, with the two losses as objectives, must come to the same least loss, and,
where the optimum is unique, to the same induced kernel on images that it never
saw. Kiani et al., 2022, arXiv 2209.14884.

Of phi only the products are given, and it may be turned: `principal` is along
the eigenvectors of K, `root` are the rows of K^1/2. Losses and optima are the
same; how far an optimizer that scales each coordinate comes is not.

A workdir has `config.json` and the results: `bridge.json`, `bridge.md` and
`bridge.svg`.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jssl.augment import Augment
from jssl.config.build import build_optimizer
from jssl.config.parse import to_dict
from jssl.kernel_regime import losses
from jssl.kernel_regime.embedding import Map, induced
from jssl.kernel_regime.objectives import (
  KernelContrastive,
  KernelNonContrastive,
  KernelRegime,
)
from jssl.kernel_regime.psd import Gram, with_jitter
from jssl.kernel_regime.study import figures
from jssl.kernel_regime.study import points as points_lib
from jssl.kernel_regime.study.cases import directions_between, optimum
from jssl.kernel_regime.study.points import Grams
from jssl.kernel_regime.study.setting import (
  BASES,
  Basis,
  Bridge,
  Setting,
)
from jssl.kernel_regime.targets import Ids
from jssl.models.backbone import Backbone
from jssl.optim import Optim
from jssl.optim.bilevel import HeadUpdate
from jssl.report.charts import as_svg
from jssl.runtime import files
from jssl.runtime.workdir import claim_workdir
from jssl.train.state import init_state
from jssl.train.step import make_train_step
from jssl.typing import Batch, Images, Key, Keys, Variables

Tell = Callable[[str], None]

BAR = 1e-3
# An image only says which point it is, in base 256.
_SIDE_PX, _BASE = 4, 256
_AS_IT_IS = Augment(
  crop_size_px=_SIDE_PX,
  crop_min_area=1.0,
  crop_ratio_min=1.0,
  crop_ratio_max=1.0,
)


class Trained(NamedTuple):
  """A map after its training.

  Attributes:
    gaps: of the loss before each step to the least one, relative to the larger
      of |least loss| and ||T||^2, in float32; the last is that of `m`, float64.
    m: M, which gives a point x the embedding M k(X, x).
  """

  gaps: Float[np.ndarray, "steps+1"]
  m: Map


def basis_of(k: Gram, basis: Basis) -> Float[np.ndarray, "n n"]:
  """Returns phi of each point, rows of which K are the products, [N, N]."""
  values, vectors = np.linalg.eigh(k)
  principal = vectors * np.sqrt(values)
  return principal if basis == "principal" else principal @ vectors.T


def lookup(phi: Float[np.ndarray, "n d"]) -> Backbone:
  """Returns an encoder that looks features up, and learns nothing."""
  table = jnp.asarray(phi, jnp.float32)

  def apply(
    variables: Variables,
    images: Images,
    *,
    train: bool,
    keys: Keys | None = None,
  ) -> tuple[Float[Array, "n d"], Variables]:
    del train, keys
    digits = jnp.rint(images[:, 0, :2, 0] * (_BASE - 1)).astype(int)
    return table[digits[:, 0] * _BASE + digits[:, 1]], variables

  def init(key: Key, shape: tuple[int, int, int]) -> Variables:
    del key, shape
    # The step wants something to differentiate by.
    return {"params": {"nothing": jnp.zeros((1, 1))}}

  return Backbone(init, apply, phi.shape[1])


def _batch(image_ids: Ids) -> Batch:
  """Returns all points: as image which it is, as label whose."""
  at = np.arange(len(image_ids))
  images = np.zeros((len(at), _SIDE_PX, _SIDE_PX, 1), np.uint8)
  images[:, 0, 0, 0], images[:, 0, 1, 0] = at // _BASE, at % _BASE
  return {"image": images, "label": np.asarray(image_ids, np.int32)}


def _objective(loss: losses.Loss, d_out: int) -> KernelRegime:
  if isinstance(loss, losses.NonContrastive):
    return KernelNonContrastive(
      out_dim=d_out, num_views=1, uses_labels=True, beta=loss.beta
    )
  return KernelContrastive(out_dim=d_out, num_views=1, uses_labels=True)


def train(
  k: Gram,
  loss: losses.Loss,
  image_ids: Ids,
  *,
  d_out: int,
  basis: Basis,
  bridge: Bridge,
  seed: int = 0,
) -> Trained:
  """Trains a linear map on all points at once, by the train step.

  Args:
    k: Gram matrix with its jitter, [N, N].
    loss: of the kernel regime.
    image_ids: [N], whose view each point is.
    d_out: dimension of the embedding.
    basis: of the features.
    bridge: how long, and how fast.
    seed: of the map's first values.
  """
  phi = basis_of(k, basis)
  backbone, objective = lookup(phi), _objective(loss, d_out)
  shape = (_SIDE_PX, _SIDE_PX, 1)
  chain = build_optimizer(
    Optim("adam", bridge.learning_rate),
    backbone,
    objective,
    HeadUpdate(),
    shape,
    bridge.steps,
  )
  state = init_state(seed, backbone, objective, chain, shape)
  step = jax.jit(make_train_step(backbone, objective, _AS_IT_IS, chain))
  batch, values = _batch(image_ids), []
  for _ in range(bridge.steps):
    state, metrics = step(state, batch)
    values.append(metrics["loss"])
  w = np.asarray(state.head_params["map"], np.float64)
  m = np.linalg.solve(phi.T, w).T
  values.append(loss.of_embedding(phi @ w, image_ids))
  least = loss.minimum(image_ids, d_out)
  scale = max(abs(least), loss.target_squares(image_ids))
  return Trained((np.array(values, np.float64) - least) / scale, m)


class Crossing(NamedTuple):
  """A training, and the closed form beside it.

  Attributes:
    loss: of the kernel regime.
    d_out: dimension of the embedding.
    basis: of the features.
    gaps: see `Trained`.
    unseen: of test images, ||k*_trained - k*_closed|| / ||k*_closed|| in the
      Frobenius norm; None where the optimum isn't unique.
  """

  loss: str
  d_out: int
  basis: Basis
  gaps: Float[np.ndarray, "steps+1"]
  unseen: float | None

  def reached(self) -> int | None:
    """Returns the steps from which on the gap stays within the bar, or None."""
    above = np.flatnonzero(~(self.gaps <= BAR))
    first = int(above[-1]) + 1 if len(above) else 0
    return first if first < len(self.gaps) else None


def _unseen(
  trained: Map, closed: Map, k_test: Float[np.ndarray, "m n"], centred: bool
) -> float:
  ours, theirs = (k_test @ m.T for m in (trained, closed))
  if centred:
    # The loss sees no shift, and k* of an embedding has one.
    ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
  ours, theirs = induced(ours), induced(theirs)
  return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def cross(
  found: Grams, loss: losses.Loss, d_out: int, basis: Basis, of: Setting
) -> Crossing:
  """Trains one map, and compares it with its closed form.

  Args:
    found: the kernel.
    loss: of the kernel regime.
    d_out: dimension of the embedding; 0 takes all that tells images apart.
    basis: of the features.
    of: the config, as objects.
  """
  kernels = of.kernels
  at = found.views(kernels.views)
  ids = np.repeat(np.arange(len(found.labels)), kernels.views)
  k = with_jitter(found.k[np.ix_(at, at)], kernels.jitter)
  every = directions_between(loss, ids)
  dims = d_out or every
  trained = train(k, loss, ids, d_out=dims, basis=basis, bridge=of.bridge)
  unseen = None
  if dims == every:
    # With fewer, any of the images' directions will do.
    closed = optimum(k, loss, ids, d_out=dims, alpha=0.0)
    unseen = _unseen(
      trained.m, closed, found.k_test[:, at], loss.shift_invariant
    )
  return Crossing(type(loss).__name__, dims, basis, trained.gaps, unseen)


def _name(crossing: Crossing) -> str:
  return f"{crossing.loss}, {crossing.d_out} dimensions"


def markdown(crossings: Sequence[Crossing], about: str) -> str:
  """Returns the table: what each training reached, and when."""
  steps = len(crossings[0].gaps) - 1
  lines = [
    about,
    "",
    f"| loss | dimensions | basis | gap after {steps:,} steps | within {BAR:g} "
    "from step | unseen images, relative difference of k* |",
    "|---|---:|---|---:|---:|---:|",
  ]
  for c in crossings:
    reached = c.reached()
    lines.append(
      f"| {c.loss} | {c.d_out} | {c.basis} | {c.gaps[-1]:.1e} "
      f"| {'not' if reached is None else f'{reached:,}'} "
      f"| {'-' if c.unseen is None else f'{c.unseen:.1e}'} |"
    )
  return "\n".join(lines) + "\n"


def run(
  of: Setting,
  workdir: pathlib.Path,
  *,
  command: str,
  tell: Tell = lambda line: None,
) -> str:
  """Runs the study and writes its results; returns the table.

  Args:
    of: see configs/kernel_bridge_fashion_mnist.py.
    workdir: new, or that of the same config.
    command: that makes it again, for the text.
    tell: takes lines of progress.

  Raises:
    ValueError: the config can't be used, with the key to change, or the workdir
      belongs to another one.
    TypeError: a value of the config is of another type.
    FileNotFoundError: the data set isn't prepared.
  """
  of.kernels.check_memory()
  found = points_lib.grams(of)
  claim_workdir(to_dict(of), workdir)
  crossings = []
  for loss in (losses.Contrastive(), losses.NonContrastive(of.loss.beta)):
    for d_out in of.bridge.d_outs:
      for basis in BASES:
        crossings.append(cross(found, loss, d_out, basis, of))
        last = crossings[-1]
        tell(f"{_name(last)}, {basis}: gap {last.gaps[-1]:.1e}")
  about = f"`{command}`: {found.kernel}, {len(found.labels)} images of "
  about += f"{of.kernels.views} views each."
  text = markdown(crossings, about)
  (workdir / "bridge.md").write_text(text, encoding="utf-8")
  files.write_json(
    workdir / "bridge.json",
    [{**c._asdict(), "gaps": c.gaps.tolist()} for c in crossings],
  )
  figure = figures.gaps(
    {
      basis: {_name(c): c.gaps for c in crossings if c.basis == basis}
      for basis in BASES
    },
    bar=BAR,
  )
  svg = as_svg(figure, alt="gap to the closed form over steps")
  (workdir / "bridge.svg").write_text(svg, encoding="utf-8")
  return text
