"""Test cases: every public loss, with arguments and its oracle.

The batch is 16, so that eight devices have two images each.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest
from oracles import losses as oracles
from oracles import patches

from jssl import losses

B, D, K = 16, 6, 10
T = 0.2


@dataclasses.dataclass(frozen=True)
class Case:
  """A loss of some arrays.

  Attributes:
    name: of the test.
    loss: of arrays and the keywords `axis_name`, `batch_axes`, ...
    oracle: of the same arrays, in float64.
    shapes: of the arrays.
    batch: the dimension of each that is split over devices; None for those
      that are the same everywhere.
    inverse_temperature: that the loss multiplies rounding errors by.
    stopped: arrays that get no gradient.
    fused: whether it takes `batch_axes` and `implementation`.
  """

  name: str
  loss: Callable
  oracle: Callable
  shapes: tuple[tuple[int, ...], ...] = ((B, D), (B, D))
  batch: tuple[int | None, ...] = (0, 0)
  inverse_temperature: float = 1
  stopped: tuple[int, ...] = ()
  fused: bool = True

  def arrays(self, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
      (rng.normal(size=shape) if shape else np.array(0.7)).astype(dtype)
      for shape in self.shapes
    )

  def __str__(self):
    return self.name


def _views(function, *names, **fixed):
  """The loss of two arrays and of scalars that are arrays too."""

  def call(*arrays, **options):
    split = len(arrays) - len(names)
    scalars = dict(zip(names, arrays[split:], strict=True))
    return function(*arrays[:split], **scalars, **fixed, **options)

  return call


LABELS = np.array([0, 1, 0, 2, 1, 0, 5, 1, 0, 2, 2, 9, 9, 0, 1, 7])
SLICES = 8


def _supcon(z, t, axis_name=None, **options):
  labels = np.resize(LABELS, len(z))
  if axis_name:
    first = jax.lax.axis_index(axis_name) * len(z)
    labels = jax.lax.dynamic_slice_in_dim(
      jax.numpy.asarray(LABELS), first, len(z)
    )
  return losses.supervised_contrastive(
    z, labels, temperature=t, axis_name=axis_name, **options
  )


def _sigreg(z, **options):
  key = jax.random.key(3)
  return losses.sigreg(z, key=key, num_slices=SLICES, **options)


def _sigreg_oracle(z):
  dtype = np.float64 if jax.config.jax_enable_x64 else np.float32
  normal = jax.random.normal(jax.random.key(3), (z.shape[1], SLICES), dtype)
  normal = np.asarray(normal, np.float64)
  return oracles.sigreg(z, normal / np.linalg.norm(normal, axis=0))


def _sinkhorn(scores, **options):
  """A scalar of the assignments, row by row."""
  axis_name = options.get("axis_name")
  q = losses.sinkhorn(scores, epsilon=0.3, iterations=3, **options)
  total = (q**2).sum()
  return jax.lax.psum(total, axis_name) if axis_name else total


VICREG = {
  "invariance_weight": 25.0,
  "variance_weight": 11.0,
  "covariance_weight": 3.0,
}
DISSL = {"marginal_weight": 2.3, "invariance_weight": 0.8}
WIDE = ((B, 40), (B, 40))
TEMPERED = {
  "shapes": ((B, D), (B, D), ()),
  "batch": (0, 0, None),
  "inverse_temperature": 1 / 0.7,
}
PROTOTYPES = ((4, B, D), (2, B, 5), (K, D), (K, 5))
PROTOTYPES_BATCH = (1, 1, None, None)

CASES = [
  Case(
    "nt_xent",
    _views(losses.nt_xent, "temperature"),
    oracles.nt_xent,
    **TEMPERED,
  ),
  Case("dcl", _views(losses.dcl, "temperature"), oracles.dcl, **TEMPERED),
  Case(
    "info_nce",
    _views(losses.info_nce, "temperature"),
    oracles.info_nce,
    **TEMPERED,
  ),
  Case(
    "info_nce_symmetric",
    _views(losses.info_nce, "temperature", symmetric=True),
    lambda q, k, t: oracles.info_nce(q, k, t, symmetric=True),
    **TEMPERED,
  ),
  Case(
    "info_nce_queue",
    lambda q, k, n, t, **options: losses.info_nce(
      q, k, temperature=t, negatives=n, symmetric=True, **options
    ),
    lambda q, k, n, t: oracles.info_nce(q, k, t, n, symmetric=True),
    ((B, D), (B, D), (11, D), ()),
    (0, 0, None, None),
    1 / 0.7,
  ),
  Case("cissl", _views(losses.cissl, "temperature"), oracles.cissl, **TEMPERED),
  Case(
    "supervised_contrastive",
    _supcon,
    lambda z, t: oracles.supervised_contrastive(
      z, np.resize(LABELS, len(z)), t
    ),
    ((B, D), ()),
    (0, None),
    1 / 0.7,
  ),
  Case(
    "sigmoid_contrastive",
    _views(losses.sigmoid_contrastive, "scale", "bias"),
    oracles.sigmoid_contrastive,
    ((B, D), (B, D), (), ()),
    (0, 0, None, None),
  ),
  Case(
    "spectral_contrastive",
    losses.spectral_contrastive,
    oracles.spectral_contrastive,
  ),
  Case(
    "spectral_contrastive_wide",
    losses.spectral_contrastive,
    oracles.spectral_contrastive,
    WIDE,
  ),
  Case(
    "negative_cosine",
    losses.negative_cosine,
    oracles.negative_cosine,
    fused=False,
  ),
  Case(
    "byol",
    losses.byol,
    oracles.byol,
    ((B, D),) * 4,
    (0,) * 4,
    stopped=(2, 3),
    fused=False,
  ),
  Case(
    "simsiam",
    losses.simsiam,
    oracles.simsiam,
    ((B, D),) * 4,
    (0,) * 4,
    stopped=(2, 3),
    fused=False,
  ),
  Case(
    "barlow_twins",
    _views(losses.barlow_twins, off_diagonal_weight=0.1),
    lambda x, y: oracles.barlow_twins(x, y, 0.1),
  ),
  Case(
    "barlow_twins_wide",
    _views(losses.barlow_twins, off_diagonal_weight=0.1),
    lambda x, y: oracles.barlow_twins(x, y, 0.1),
    WIDE,
  ),
  Case(
    "vicreg",
    _views(losses.vicreg, **VICREG),
    lambda x, y: oracles.vicreg(x, y, 25, 11, 3),
  ),
  Case(
    "vicreg_wide",
    _views(losses.vicreg, **VICREG),
    lambda x, y: oracles.vicreg(x, y, 25, 11, 3),
    WIDE,
  ),
  Case(
    "w_mse",
    _views(losses.w_mse, eps=1e-3),
    lambda x, y: oracles.w_mse(x, y, 1e-3),
    fused=False,
  ),
  Case("sigreg", _sigreg, _sigreg_oracle, ((B, D),), (0,)),
  Case(
    "dino",
    _views(
      losses.dino,
      "student_temperature",
      teacher_temperature=0.3,
    ),
    lambda s, t, w, v, c, ts: oracles.dino(s, t, w, v, c, ts, 0.3),
    (*PROTOTYPES, (K,), ()),
    (*PROTOTYPES_BATCH, None, None),
    1 / 0.3,
    stopped=(1, 3, 4),
  ),
  Case(
    "dino_center",
    lambda *args, **options: (losses.dino_center(*args, **options) ** 2).sum(),
    lambda *args: (oracles.dino_center(*args) ** 2).sum(),
    ((2, B, 5), (K, 5)),
    (1, None),
    fused=False,
  ),
  Case(
    "dino_center_weights",
    lambda t, v, m, **options: (
      losses.dino_center(t, v, weights=m > 0, **options) ** 2
    ).sum(),
    lambda t, v, m: (
      patches.center_update(
        np.zeros(len(v)), (t @ v.T).reshape(-1, len(v)), m.ravel() > 0, 0.0
      )
      ** 2
    ).sum(),
    ((2, B, 5), (K, 5), (2, B)),
    (1, None, 1),
    stopped=(2,),
    fused=False,
  ),
  Case(
    "sinkhorn_center",
    lambda t, v, m, **options: (
      losses.sinkhorn_center(t, v, temperature=0.3, weights=m > 0, **options)
      ** 2
    ).sum(),
    lambda t, v, m: (
      patches.sinkhorn_center(
        (t @ v.T).reshape(-1, len(v)), 0.3, used=m.ravel() > 0
      )
      ** 2
    ).sum(),
    ((2, B, 5), (K, 5), (2, B)),
    (1, None, 1),
    1 / 0.3,
    stopped=(0, 1, 2),
  ),
  Case(
    "ibot",
    lambda s, t, w, v, c, m, ts, **options: losses.ibot(
      s,
      t,
      w,
      v,
      c,
      hidden=m > 0,
      student_temperature=ts,
      teacher_temperature=0.3,
      **options,
    ),
    lambda s, t, w, v, c, m, ts: patches.ibot_patch(
      s @ w.T, t @ v.T, c, m > 0, ts, 0.3
    ),
    ((B, 4, D), (B, 4, 5), (K, D), (K, 5), (K,), (B, 4), ()),
    (0, 0, None, None, None, 0, None),
    1 / 0.3,
    stopped=(1, 3, 4, 5),
  ),
  Case(
    "gram_loss",
    losses.gram_loss,
    patches.gram_loss,
    ((B, 4, D), (B, 4, D)),
    (0, 0),
    stopped=(1,),
    fused=False,
  ),
  Case(
    "sinkhorn",
    _sinkhorn,
    lambda scores: (oracles.sinkhorn(scores, 0.3, 3) ** 2).sum(),
    ((B, K),),
    (0,),
    1 / 0.3,
    fused=False,
  ),
  Case(
    "swav",
    _views(losses.swav, "temperature", epsilon=0.3, iterations=3, num_large=2),
    lambda z, w, t: oracles.swav(z, w, t, 0.3, 3, 2),
    ((4, B, D), (K, D), ()),
    (1, None, None),
    1 / 0.3,
  ),
  Case(
    "dissl",
    _views(
      losses.dissl, "student_temperature", teacher_temperature=0.5, **DISSL
    ),
    lambda s, t, w, v, ts: oracles.dissl(s, t, w, v, ts, 0.5, 2.3, 0.8),
    (*PROTOTYPES, ()),
    (*PROTOTYPES_BATCH, None),
    2,
  ),
  Case("alignment", losses.alignment, oracles.alignment, fused=False),
  Case("uniformity", losses.uniformity, oracles.uniformity, ((B, D),), (0,)),
  Case("koleo", losses.koleo, oracles.koleo, ((B, D),), (0,)),
]

# One for each operation, in each of its forms.
BY_OPERATION = [
  "nt_xent",
  "info_nce_symmetric",
  "info_nce_queue",
  "sigmoid_contrastive",
  "spectral_contrastive",
  "spectral_contrastive_wide",
  "barlow_twins_wide",
  "vicreg",
  "sigreg",
  "dissl",
  "koleo",
  "ibot",
  "sinkhorn_center",
]


def fast_only(names, cases=CASES):
  """Returns all cases as parameters; only those with these names are fast."""
  return [
    pytest.param(
      case, marks=() if case.name in names else pytest.mark.slow, id=str(case)
    )
    for case in cases
  ]
