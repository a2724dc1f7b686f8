"""What the features of a checkpoint are like: rows of `probe.jsonl`.

Of the backbone, and of each head that reads its features.
"""

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jssl import checkpoint, diagnostics
from jssl.augment import Augment
from jssl.config.schema import Probe
from jssl.mesh import on_every_device
from jssl.models.backbone import Backbone
from jssl.objectives.base import Objective
from jssl.probe.dataset import JudgedSet, Seen
from jssl.probe.measures import Rows, measure
from jssl.probe.records import Row
from jssl.probe.sample import (
  Sample,
  Surroundings,
  draw_sample,
  spread_rows,
  survey,
)
from jssl.typing import Variables

Head = Callable[[Float[np.ndarray, "*n d"]], Float[Array, "*n z"]]


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
        labels,
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

  @property
  def settings(self) -> Row:
    """What is asked for; rows that say something else are of other views."""
    return {
      "asked_images": self._settings.diagnostic_images,
      "views": self._settings.diagnostic_views,
    }

  def _looked_at(self, sample: Sample) -> Row:
    return {
      **self.settings,
      "images": len(sample.labels),
      "num_classes": len(np.unique(sample.labels[sample.labels >= 0])),
    }

  def concentration(self, seen: Seen) -> Row:
    """Returns the row of the augmentation, which no checkpoint changes.

    Args:
      seen: any backbone: labels are kept with features.
    """
    sight = self._look(seen.train.labels)
    return {
      "step": 0,
      "dataset": self._judge.name,
      "features": "views",
      "measure": "concentration",
      **self._looked_at(sight.sample),
      **_curve_of(sight.surroundings),
    }

  def _heads(self, workdir: str | os.PathLike, step: int) -> dict[str, Head]:
    params, state = self._heads_shape
    saved = checkpoint.restore(
      workdir, step, {"objective": {"params": params, "state": state}}
    )["objective"]

    def head(name: str) -> Head:
      return lambda h: self._outputs(saved["params"], saved["state"], h)[name]

    return {name: head(name) for name in self._objective.heads}

  def rows(self, seen: Seen, workdir: str | os.PathLike) -> list[Row]:
    """Returns a row for the backbone, and one for each head that reads it.

    Where the heads can't be read any more their rows say why.

    Args:
      seen: a backbone; only one of a checkpoint has heads.
      workdir: of the run, for the heads.
    """
    subject, train, test, _ = seen
    mesh = self._judge.mesh
    sample, see, surroundings = self._look(train.labels)
    if subject.variables is None:
      raise ValueError(f"{subject.name} are no features of a backbone")
    of_views = see(on_every_device(mesh, subject.variables))
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
    found = {}
    for place, (h, h_test, h_views) in places.items():
      moment = seen.moment
      if place != "backbone":
        moment = functools.cache(
          functools.partial(diagnostics.second_moment, h, mesh=mesh)
        )
      found[place] = measure(
        moment, h_test, test.labels, h_views, sample, surroundings
      )
    # They stand in the row of the spectrum, which all subjects have.
    for name in ("singular_values", "deviation"):
      found["backbone"]["curves"].pop(name, None)
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
        **self._looked_at(sample),
        **numbers,
      }
      for place, numbers in found.items()
    ]
