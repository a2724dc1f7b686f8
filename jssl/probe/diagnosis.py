"""What the features of a checkpoint are like: rows of `probe.jsonl`.

Everything is measured on features of the backbone and of each head that reads
them: spectra on all training images as the probes see them, the rest on views
of some training images, made as the run makes its large ones. What can't be
measured leaves its reason in the row, and the rest is there.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jssl import checkpoint, diagnostics
from jssl.augment import Augment
from jssl.diagnostics import BoundTerms
from jssl.models.backbone import Backbone
from jssl.objectives.base import Objective
from jssl.probe.judge import JudgedSet
from jssl.probe.results import Row
from jssl.probe.sample import (
  Sample,
  Surroundings,
  draw_sample,
  spread_rows,
  survey,
)
from jssl.probe.subjects import Subject
from jssl.sections import Probe
from jssl.typing import Variables

# Of unit features, between 0 and the diameter of the sphere.
_EPSILONS = np.linspace(0, 2, 41)

Head = Callable[[Float[np.ndarray, "*n d"]], Float[Array, "*n z"]]
# A matrix, or what makes its rows when asked.
Rows = Any


def _curve_of(surroundings: Surroundings) -> Row:
  curve = surroundings.curve
  if curve is None:
    return {"not_measured": {"concentration": surroundings.why_not}}
  return {name: values.tolist() for name, values in curve._asdict().items()}


class _Projected:
  """A head's outputs of features, made when rows are asked for."""

  def __init__(self, h: Float[np.ndarray, "n d"], head: Head):
    """Looks at one row to know the width."""
    self._h, self._head = h, head
    self.shape = (len(h), self[:1].shape[1])
    self.ndim, self.dtype = 2, np.dtype(np.float32)

  def __len__(self) -> int:
    return len(self._h)

  def __getitem__(self, rows: slice) -> Float[np.ndarray, "m z"]:
    return np.asarray(self._head(np.asarray(self._h[rows])), np.float32)


class _Found:
  """Numbers by name; and where there is none, why."""

  def __init__(self) -> None:
    self.values: dict[str, Any] = {}
    self.not_measured: dict[str, str] = {}

  def put(self, name: str, measure: Callable[[], Any]) -> None:
    """Keeps a number, or the fields of a tuple as `name/field`."""
    try:
      value = measure()
    except (
      ValueError,
      TypeError,
      np.linalg.LinAlgError,
      MemoryError,
      jax.errors.JaxRuntimeError,
    ) as error:
      self.not_measured[name] = str(error)
      return
    fields = getattr(value, "_fields", None)
    if fields is None:
      self.values[name] = value
    else:
      self.values |= {
        f"{name}/{field}": one for field, one in zip(fields, value, strict=True)
      }


def measure(
  train: Rows,
  test: Rows,
  test_labels: Int[np.ndarray, "m"],
  of_views: Float[np.ndarray, "n v d"],
  sample: Sample,
  surroundings: Surroundings,
) -> dict[str, Any]:
  """Measures one kind of features.

  Args:
    train: of all training images, in the view of evaluation.
    test: of all test images.
    test_labels: their classes.
    of_views: of the sample's views.
    sample: what they are views of.
    surroundings: of the same views.

  Returns:
    `values` by name, `curves` by name, and `not_measured`, reasons by name.
  """
  found, mesh = _Found(), sample.mesh
  n, v, dim = of_views.shape
  labels, classes = sample.labels, sample.num_classes
  unit = diagnostics.unit_rows(of_views).astype(np.float32)

  @functools.cache
  def moment() -> diagnostics.SecondMoment:
    return diagnostics.second_moment(train, mesh=mesh)

  @functools.cache
  def spectrum() -> Float[np.ndarray, "d"]:
    return diagnostics.values_of(moment())

  found.put("collapse_auc", lambda: diagnostics.collapse_auc(spectrum()))
  found.put(
    "rank_me",
    lambda: diagnostics.rank_me(diagnostics.values_of(moment(), centre=False)),
  )
  found.put("alpha_req", lambda: diagnostics.alpha_req(spectrum()))
  found.put("stable_rank", lambda: diagnostics.stable_rank(spectrum()))
  found.put("lidar", lambda: diagnostics.lidar(of_views, mesh=mesh))
  found.put("alignment", lambda: diagnostics.alignment(of_views, mesh=mesh))
  found.put(
    "uniformity", lambda: diagnostics.uniformity(of_views[:, 0], mesh=mesh)
  )

  found.put(
    "info_nce", lambda: diagnostics.info_nce_split(unit[:, :2], mesh=mesh)
  )
  found.put(
    "barlow", lambda: diagnostics.barlow_split(of_views[:, :2], mesh=mesh)
  )

  @functools.cache
  def means() -> diagnostics.ClassMeans:
    return diagnostics.class_means(
      unit.reshape(n * v, dim), np.repeat(labels, v), classes, mesh=mesh
    )

  found.put("centres", lambda: diagnostics.centre_divergence(means()))
  found.put("centre_shrinkage", lambda: diagnostics.centre_shrinkage(means()))
  found.put("class_simplex", lambda: diagnostics.simplex_distance(means().seen))
  found.put(
    "nearest_mean_error",
    lambda: diagnostics.nearest_mean_error(
      test, test_labels, means(), mesh=mesh
    ),
  )

  # Section 1 is about images: M(x) is which one a view is of.
  found.put("simplex", lambda: diagnostics.simplex_distance(of_views.mean(1)))
  known = v // 2
  found.put("image_entropy", lambda: diagnostics.maximal_invariant_entropy(n))
  found.put(
    "image_entropy_given_features",
    lambda: diagnostics.conditional_entropy(of_views, mesh=mesh),
  )
  found.put(
    "linear_predictability",
    lambda: diagnostics.linear_predictability(
      of_views[:, :known], of_views[:, known:], mesh=mesh
    ),
  )

  found.put(
    "lipschitz",
    lambda: diagnostics.lipschitz_at_least(
      surroundings.pixels, unit, mesh=mesh
    ),
  )

  @functools.cache
  def divergence() -> Float[np.ndarray, "t"]:
    return diagnostics.divergence_curve(unit, _EPSILONS, mesh=mesh)

  def bound() -> BoundTerms:
    if surroundings.curve is None:
      raise ValueError(surroundings.why_not)
    if "lipschitz" not in found.values:
      raise ValueError(found.not_measured["lipschitz"])
    counts = means().counts
    return diagnostics.tightest_bound(
      means().seen,
      surroundings.curve,
      _EPSILONS,
      divergence(),
      lipschitz=found.values["lipschitz"],
      radius=1.0,
      min_share=float(counts[counts > 0].min() / n / v),
    )

  found.put("bound", bound)
  curves = _Found()
  curves.put("singular_values", lambda: spectrum().tolist())
  curves.put("deviation", lambda: np.sort(moment().std)[::-1].tolist())
  curves.put("epsilon", _EPSILONS.tolist)
  curves.put("divergence", lambda: divergence().tolist())
  return {
    "values": found.values,
    "curves": curves.values,
    "not_measured": {**curves.not_measured, **found.not_measured},
  }


class _Sight(NamedTuple):
  """What is looked at, once it is known which images have which labels.

  Attributes:
    sample: the images.
    see: `variables -> features of their views`, compiled.
    surroundings: of the views.
  """

  sample: Sample
  see: Callable[[Variables], Float[np.ndarray, "n v d"]]
  surroundings: Surroundings


class Diagnosis:
  """Diagnoses what is probed, all on the same views of the same images."""

  def __init__(
    self,
    judge: JudgedSet,
    backbone: Backbone,
    objective: Objective,
    augment: Augment,
    settings: Probe,
    seed: int,
  ):
    """Says what to look at; images and views are made when they are needed.

    Args:
      judge: the set that is probed, and its features.
      backbone: of the run.
      objective: of the run, whose heads read features.
      augment: of the run, which makes the views.
      settings: how many images and views.
      seed: of the run.
    """
    self._judge, self._settings, self._seed = judge, settings, seed
    self._backbone, self._objective = backbone, objective
    self._augment = augment
    self._heads_shape = jax.eval_shape(
      lambda: objective.init(jax.random.key(0), backbone.feature_dim)
    )
    self._outputs = jax.jit(objective.outputs)
    self._sight: _Sight | None = None

  def _look(self, labels: Int[np.ndarray, "n"]) -> _Sight:
    """Returns what is looked at, chosen the first time by all labels."""
    if self._sight is None:
      settings, train = self._settings, self._judge.sources[0]
      sample = draw_sample(
        train,
        spread_rows(labels, images=settings.diagnostic_images),
        self._augment,
        num_views=settings.diagnostic_views,
        seed=self._seed,
        mesh=self._judge.mesh,
      )
      see = sample.viewer(
        lambda x, variables: self._backbone.apply(variables, x, train=False)[0],
        batch_size=settings.batch_size,
      )
      around = survey(sample, batch_size=settings.batch_size)
      self._sight = _Sight(sample, see, around)
    return self._sight

  def concentration(self, subject: Subject) -> Row:
    """Returns the row of the augmentation, which no checkpoint changes.

    Args:
      subject: any backbone: labels are kept with features.
    """
    train, _ = self._judge.features(subject)
    return {
      "step": 0,
      "dataset": self._judge.name,
      "features": "views",
      "measure": "concentration",
      **_curve_of(self._look(train.labels).surroundings),
    }

  def _heads(self, workdir: str | os.PathLike, step: int) -> dict[str, Head]:
    params, state = self._heads_shape
    saved = checkpoint.restore(
      workdir, step, {"objective": {"params": params, "state": state}}
    )["objective"]

    def head(name: str) -> Head:
      return lambda h: self._outputs(saved["params"], saved["state"], h)[name]

    return {name: head(name) for name in self._objective.heads}

  def rows(self, subject: Subject, workdir: str | os.PathLike) -> list[Row]:
    """Returns a row for the backbone, and one for each head that reads it.

    Where the heads can't be read any more their rows say why.

    Args:
      subject: a backbone; only one of a checkpoint has heads.
      workdir: of the run, for the heads.
    """
    train, test = self._judge.features(subject)
    sample, see, surroundings = self._look(train.labels)
    if subject.variables is None:
      raise ValueError(f"{subject.name} are no features of a backbone")
    of_views = see(subject.variables)
    heads: dict[str, Head] = {}
    lost = ""
    if subject.kind == "backbone":
      try:
        heads = self._heads(workdir, subject.step)
      except checkpoint.CheckpointError as error:
        lost = str(error)
    places: dict[str, tuple[Rows, Rows, Float[np.ndarray, "n v z"]]] = {
      "backbone": (train.h, test.h, of_views)
    }
    for name, head in heads.items():
      places[name] = (
        _Projected(train.h, head),
        _Projected(test.h, head),
        np.asarray(head(of_views), np.float32),
      )
    found = {
      place: measure(h, h_test, test.labels, h_views, sample, surroundings)
      for place, (h, h_test, h_views) in places.items()
    }
    if lost:
      nothing = {"values": {}, "curves": {}, "not_measured": {"head": lost}}
      found |= dict.fromkeys(self._objective.heads, nothing)
    return [
      {
        "step": subject.step,
        "dataset": self._judge.name,
        "features": subject.kind,
        "measure": "diagnostics",
        "at": place,
        **numbers,
      }
      for place, numbers in found.items()
    ]
