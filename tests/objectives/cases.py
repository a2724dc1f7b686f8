"""Small cases of every method, shared by the tests of objectives."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from objectives import oracle

from jssl import tree
from jssl.kernel_regime.objectives import (
  KernelContrastive,
  KernelNonContrastive,
)
from jssl.models.decoder import Decoder
from jssl.models.heads import Head, Prototypes
from jssl.models.tokens import Drop, Encoded, Grid, Mask, Spec
from jssl.objectives.barlow_twins import BarlowTwins
from jssl.objectives.base import Aux, Features, Objective
from jssl.objectives.byol import BYOL
from jssl.objectives.cissl import CISSL
from jssl.objectives.dcl import DCL
from jssl.objectives.dino import DINO
from jssl.objectives.dinov2 import DINOv2
from jssl.objectives.dissl import DISSL
from jssl.objectives.ibot import IBOT
from jssl.objectives.ijepa import IJEPA
from jssl.objectives.lejepa import LeJEPA
from jssl.objectives.mae import MAE
from jssl.objectives.moco_v3 import MoCoV3
from jssl.objectives.nnclr import NNCLR
from jssl.objectives.simclr import SimCLR
from jssl.objectives.simmim import SimMIM
from jssl.objectives.simsiam import SimSiam
from jssl.objectives.spectral import Spectral
from jssl.objectives.supcon import SupCon
from jssl.objectives.supervised import Supervised
from jssl.objectives.swav import SwAV
from jssl.objectives.vicreg import VICReg
from jssl.objectives.w_mse import WMSE

# Compilation dominates the time of these tests.
QUICK = {"xla_backend_optimization_level": 0}
B, D, STEP, TOTAL = 8, 5, 3, 10
# 2 x 3 patches of 2 px.
GRID = Grid(2, 3, D, 2)
SPEC = Spec(D, GRID, channels=2, num_classes=5)
LABELS = np.array([0, 1, 0, 2, 1, 3, 0, 4], np.int32)

BIASED = Head((6,), 4)
PLAIN = Head((6,), 4, last_norm="plain")
AFFINE = Head((6,), 4, last_norm="affine")
GELU = Head((6,), 4, norm=False, activation="gelu")


class Point(NamedTuple):
  """Arguments of a loss as float64 NumPy arrays."""

  params: Any
  state: Any
  student: tuple[np.ndarray | Encoded, ...]
  teacher: tuple[np.ndarray | Encoded, ...]
  labels: np.ndarray
  key: jax.Array
  step: int
  mask: Mask | None = None
  pixels: np.ndarray | None = None
  own_weight: np.ndarray | None = None


class Outcome(NamedTuple):
  """Results of one loss and update of a case, as NumPy arrays.

  Attributes:
    loss: loss at the point.
    aux: auxiliary outputs of the loss.
    after: `(params, state)` from `update` at changed parameters.
    gradient: gradients with respect to params, state, student and teacher.
  """

  loss: Any
  aux: Aux
  after: tuple
  gradient: tuple


@dataclasses.dataclass(frozen=True)
class Case:
  """A method with its oracle.

  Attributes:
    name: name of the test: the method, with a suffix for a variant.
    objective: small objective.
    oracle: function of `(objective, point, held point)`; stop-gradient parts
      are evaluated at the held point.
    ineffective: parameters with zero gradient by an invariance: biases that the
      norm of the next head, or the loss itself, removes.
    derived: True if a fast test checks the gradient, for methods with
      stop-gradient.
  """

  name: str
  objective: Objective
  oracle: Callable
  ineffective: tuple[str, ...] = ()
  derived: bool = False

  def __str__(self):
    return self.name

  def shapes(self):
    """Returns shapes of head parameters and state."""
    return initialised(self)[1]


@functools.cache
def initialised(case):
  """Returns the jaxpr of `init` and the shapes of parameters and state."""
  init = functools.partial(case.objective.init, spec=SPEC)
  return jax.make_jaxpr(init, return_shape=True)(jax.random.key(0))


def leaves(structure):
  """Returns leaves by name."""
  return dict(
    zip(tree.names(structure), jax.tree.leaves(structure), strict=True)
  )


def assert_equal(got, expected, rtol=1e-12):
  got, expected = leaves(got), leaves(expected)
  assert got.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(
      got[name], value, rtol=rtol, atol=rtol, err_msg=name
    )


def random_key(seed):
  """Returns a key whose generator compiles fast."""
  return jax.random.key(seed, impl="unsafe_rbg")


def features(objective, b=B, seed=0):
  """Returns student and teacher features, with a small crop if supported.

  Methods with tokens have them for the large views, and a mask and pixels.
  """
  draw = np.random.default_rng(seed)
  large = objective.num_views
  views = (large, 1) if objective.multi_crop else (large,)
  student = tuple(draw.normal(size=(v, b, D)) for v in views)
  averaged = sum(
    x is not None
    for x in (objective.teacher_momentum(0), objective.anchored(0))
  )
  teacher = tuple(draw.normal(size=(averaged, large, b, D)))
  if not objective.uses_tokens:
    return student, teacher, None, None
  keys = jax.random.split(random_key(seed), large * b)
  mask = jax.tree.map(
    lambda x: np.asarray(x).reshape(large, b, *x.shape[1:]),
    objective.hide(keys, GRID),
  )
  n = GRID.patches
  seen = mask.visible.shape[-1] if isinstance(mask, Drop) else n
  student = (
    Encoded(student[0], draw.normal(size=(large, b, seen, D))),
    *student[1:],
  )
  teacher = tuple(
    Encoded(h, draw.normal(size=(large, b, n, D))) for h in teacher
  )
  size = GRID.patch_size_px
  pixels = (large, b, size * GRID.rows, size * GRID.columns, SPEC.channels)
  return student, teacher, mask, draw.normal(size=pixels)


@functools.cache
def point(case, *, b=B, step=STEP, seed=1):
  """Returns random arguments, without the zeros and ones of `init`."""
  draw = np.random.default_rng(seed)

  def fill(path, leaf):
    name = tree.path_name(path)
    if name.endswith("queue/cursor"):
      return np.full((), case.objective.queue_size - b, np.int32)
    x = draw.normal(size=leaf.shape)
    if name.endswith("/var"):
      return x**2
    return oracle.unit(x) if name.endswith("queue/rows") else x

  params, state = jax.tree_util.tree_map_with_path(fill, case.shapes())
  student, teacher, *rest = features(case.objective, b)
  labels = np.resize(LABELS, b)
  key = random_key(2)
  if case.objective.mixes_labels:
    rest.append(draw.uniform(size=(case.objective.num_views, b)))
    # Of both the image and the partner, of one of them, of none.
    labels[[1, b - 1, 0]] = -1
  return Point(params, state, student, teacher, labels, key, step, *rest)


def moved(case):
  """Returns other random head parameters, as after an optimizer step."""
  return point(case, seed=7).params


def encoded(features):
  """Wraps pooled features without tokens."""
  return tuple(h if isinstance(h, Encoded) else Encoded(h) for h in features)


def answer(objective, derived, at, params_after):
  """Runs loss and update as the train step does."""

  def loss(params, state, student, teacher):
    return objective.loss(
      params,
      state,
      Features(
        encoded(student),
        encoded(teacher),
        at.mask,
        at.pixels,
        GRID,
        own_weight=at.own_weight,
      ).with_labels(at.labels),
      key=at.key,
      step=at.step,
    )

  arguments = at.params, at.state, at.student, at.teacher
  gradient = ()
  if derived:
    (value, aux), gradient = jax.value_and_grad(
      loss, argnums=(0, 1, 2, 3), has_aux=True, allow_int=True
    )(*arguments)
  else:
    value, aux = loss(*arguments)
  after = objective.update(params_after, at.state, aux.carry, step=at.step)
  return Outcome(value, aux, after, gradient)


@functools.cache
def compiled(objective, derived):
  return jax.jit(
    functools.partial(answer, objective, derived), compiler_options=QUICK
  )


@functools.cache
def outcome(case, *, derived=None, step=STEP):
  """Returns loss, gradients and update of the objective in float64."""
  derived = case.derived if derived is None else derived
  with jax.enable_x64(True):
    got = compiled(case.objective, derived)(point(case, step=step), moved(case))
    return jax.tree.map(np.asarray, got)


AVERAGED = {"momentum_start": 0.9, "momentum_end": 0.99, "total_steps": TOTAL}
MOCO = MoCoV3(projector=PLAIN, predictor=PLAIN, **AVERAGED)

DISTILLED = {
  "prototypes": Prototypes(7, "weight", freeze_steps=4),
  "student_temperature": 0.3,
  "teacher_temperature_start": 0.2,
  "teacher_temperature": 0.6,
  "temperature_warmup_steps": 8,
  "projector": GELU,
  **AVERAGED,
}
DINOV2 = DINOv2(
  patch_prototypes=Prototypes(6, "weight"),
  mask_probability=0.8,
  mask_ratio_max=0.7,
  koleo_weight=0.3,
  shared_head=False,
  patch_projector=dataclasses.replace(GELU, out_dim=3),
  **DISTILLED,
)

CASES = (
  Case(
    "simclr",
    SimCLR(temperature=0.5, projector=PLAIN),
    oracle.simclr,
  ),
  Case("dcl", DCL(temperature=0.5, projector=AFFINE), oracle.dcl),
  Case("supcon", SupCon(temperature=0.5, projector=GELU), oracle.supcon),
  Case(
    "supervised",
    Supervised(label_smoothing=0.2, num_views=2),
    oracle.supervised,
  ),
  Case(
    "spectral",
    Spectral(squared_radius=4.0, projector=PLAIN),
    oracle.spectral,
  ),
  Case(
    "barlow_twins",
    BarlowTwins(off_diagonal_weight=0.3, scale=0.5, projector=BIASED),
    oracle.barlow_twins,
    ("projector/Dense_1/bias",),
  ),
  Case(
    "vicreg",
    VICReg(
      invariance_weight=3.0,
      variance_weight=2.0,
      covariance_weight=0.5,
      projector=BIASED,
    ),
    oracle.vicreg,
    ("projector/Dense_1/bias",),
  ),
  Case(
    "w_mse",
    WMSE(eps=0.05, projector=BIASED),
    oracle.w_mse,
    ("projector/Dense_1/bias",),
  ),
  Case("moco_v3", MOCO, oracle.moco_v3),
  Case(
    "moco_v3_queue",
    dataclasses.replace(MOCO, queue_size=3 * B, predictor=Head()),
    oracle.moco_v3,
    derived=True,
  ),
  Case(
    "byol",
    BYOL(projector=BIASED, predictor=BIASED, **AVERAGED),
    oracle.byol,
    ("projector/Dense_1/bias",),
    derived=True,
  ),
  Case(
    "simsiam",
    SimSiam(projector=PLAIN, predictor=BIASED),
    oracle.simsiam,
    derived=True,
  ),
  Case(
    "simsiam_unstopped",
    SimSiam(projector=PLAIN, predictor=BIASED, stop_gradient=False),
    oracle.simsiam,
    derived=True,
  ),
  Case(
    "nnclr",
    NNCLR(
      temperature=0.5, queue_size=3 * B, projector=AFFINE, predictor=BIASED
    ),
    oracle.nnclr,
    ("projector/BatchNorm_1/bias",),
    derived=True,
  ),
  Case(
    "swav",
    SwAV(
      prototypes=Prototypes(7, "step", freeze_steps=4),
      temperature=0.3,
      epsilon=0.5,
      iterations=2,
      projector=BIASED,
    ),
    oracle.swav,
    derived=True,
  ),
  Case(
    "dino",
    DINO(**DISTILLED),
    oracle.dino,
    derived=True,
  ),
  Case(
    "ibot",
    IBOT(
      mask_probability=0.8, mask_ratio_max=0.7, patch_weight=0.5, **DISTILLED
    ),
    oracle.ibot,
    derived=True,
  ),
  Case("dinov2", DINOV2, oracle.dinov2, derived=True),
  Case(
    "dinov2_sinkhorn",
    dataclasses.replace(DINOV2, centering="sinkhorn", shared_head=True),
    oracle.dinov2,
    derived=True,
  ),
  Case(
    "dinov2_gram",
    dataclasses.replace(
      DINOV2, gram_weight=2.0, gram_start_step=2, gram_every_steps=5
    ),
    oracle.dinov2,
    derived=True,
  ),
  Case(
    "kernel_contrastive",
    KernelContrastive(out_dim=3),
    oracle.kernel_contrastive,
  ),
  Case(
    "kernel_non_contrastive",
    KernelNonContrastive(out_dim=3, beta=0.3, uses_labels=True),
    oracle.kernel_non_contrastive,
  ),
  Case(
    "ijepa",
    IJEPA(
      context_share=0.4,
      num_targets=2,
      target_area_min=0.2,
      target_area_max=0.6,
      context_area_min=0.9,
      min_context=1,
      predictor=Decoder(8, 1, 2, 2),
      **AVERAGED,
    ),
    oracle.ijepa,
    derived=True,
  ),
  Case(
    "mae",
    MAE(mask_ratio=0.6, decoder=Decoder(8, 1, 2, 2)),
    oracle.mae,
  ),
  Case(
    "mae_pixels",
    MAE(
      mask_ratio=0.4,
      normalize_patches=False,
      decoder=Decoder(4, 2, 1, 1),
      num_views=2,
    ),
    oracle.mae,
    derived=True,
  ),
  Case(
    "simmim",
    SimMIM(mask_ratio=0.5, mask_unit_px=2),
    oracle.simmim,
    derived=True,
  ),
  Case("lejepa", LeJEPA(num_slices=6, projector=BIASED), oracle.lejepa),
  Case(
    "cissl",
    CISSL(
      temperature=0.5, student=Head((), 4, last_norm="affine"), teacher=AFFINE
    ),
    oracle.cissl,
  ),
  Case(
    "dissl",
    DISSL(
      prototypes=Prototypes(7),
      student=Head((), 4, last_norm="affine"),
      teacher=Head((6,), 0),
    ),
    oracle.dissl,
  ),
)
BY_NAME = {case.name: case for case in CASES}
