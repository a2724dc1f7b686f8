"""Diagnostics of checkpoints: of the backbone and of each head's outputs."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jssl import checkpoint, diagnostics, rng
from jssl.config.build import build_objective
from jssl.config.schema import Config, Probe
from jssl.mesh import on_every_device
from jssl.models.backbone import Backbone
from jssl.probe.dataset import FeatureSet, ProbeDataset
from jssl.probe.features import NotFiniteError
from jssl.probe.measures import Matrix, measure
from jssl.probe.records import ConcentrationRecord, DiagnosticsRecord
from jssl.probe.sample import balanced_rows, draw_sample, measure_views

Head = Callable[[Float[np.ndarray, "*n d"]], Float[Array, "*n z"]]


class _HeadOutputs:
  """Outputs of a head, computed for the rows that are indexed."""

  def __init__(self, h: Float[np.ndarray, "n d"], head: Head):
    self._h, self._head = h, head
    self.shape = (len(h), self[:1].shape[1])
    self.ndim, self.dtype = 2, np.dtype(np.float32)

  def __len__(self) -> int:
    return len(self._h)

  def __getitem__(self, rows: slice) -> Float[np.ndarray, "m z"]:
    return np.asarray(self._head(np.asarray(self._h[rows])), np.float32)


class Diagnosis:
  """Measures encoders of a run, all on the same views of the same images."""

  def __init__(
    self,
    dataset: ProbeDataset,
    backbone: Backbone,
    config: Config,
    labels: Int[np.ndarray, "n"],
  ):
    """Draws images and views; `labels` are of the training images."""
    settings = config.probe
    self._dataset, self._objective = dataset, build_objective(config)
    size = config.augment.crop_size_px
    image_shape = (size, size, dataset.train.image_shape[-1])
    self._head_shapes = jax.eval_shape(
      lambda: self._objective.init(rng.root(0), backbone.spec(image_shape))
    )
    self._outputs = jax.jit(self._objective.outputs)
    self._sample = draw_sample(
      dataset.train,
      labels,
      balanced_rows(labels, images=settings.diagnostic_images),
      config.augment,
      num_views=settings.diagnostic_views,
      seed=config.seed,
      mesh=dataset.mesh,
    )
    self._view_features = self._sample.map_views(
      lambda x, variables: backbone.apply(variables, x, train=False)[0].pooled,
      batch_size=settings.batch_size,
    )
    self._pixels = measure_views(self._sample, batch_size=settings.batch_size)
    own = self._sample.labels
    self._sample_fields: dict[str, Any] = {
      **sample_settings(settings),
      "images": len(own),
      "num_classes": len(np.unique(own[own >= 0])),
    }

  def concentration(self) -> ConcentrationRecord:
    """Returns the record of the augmentation, the same for all checkpoints."""
    curve = self._pixels.curve
    curves = curve._asdict() if curve else {}
    return ConcentrationRecord(
      step=0,
      dataset=self._dataset.name,
      features="views",
      **self._sample_fields,
      **{name: values.tolist() for name, values in curves.items()},
      not_measured=self._pixels.no_curve,
    )

  def _heads(self, workdir: str | os.PathLike, step: int) -> dict[str, Head]:
    params, state = self._head_shapes
    shapes = {"objective": {"params": params, "state": state}}
    saved = checkpoint.restore(workdir, step, shapes)["objective"]

    def head(name: str) -> Head:
      return lambda h: self._outputs(saved["params"], saved["state"], h)[name]

    return {name: head(name) for name in self._objective.heads}

  def records(
    self, features: FeatureSet, workdir: str | os.PathLike
  ) -> list[DiagnosticsRecord]:
    """Returns a record of the backbone and one of each head.

    Heads are measured on features of the student, which they were trained on.
    If they cannot be restored, their records give the reason.
    """
    encoder, test = features.encoder, features.test
    mesh = self._dataset.mesh
    if encoder.variables is None:
      raise ValueError(f"{encoder.name} has no backbone to diagnose")
    heads_see = features
    heads: dict[str, Head] = {}
    lost: dict[str, dict] = {}
    if encoder.kind == "backbone":
      try:
        # First, because a running training may delete the checkpoint.
        heads = self._heads(workdir, encoder.step)
        if heads and encoder.student is not None:
          heads_see = self._dataset.extract(encoder.student).pooled
      except (checkpoint.CheckpointError, OSError, NotFiniteError) as error:
        heads = {}
        reason = {"head": str(error)}
        found = {"values": {}, "curves": {}, "not_measured": reason}
        lost = dict.fromkeys(self._objective.heads, found)
    views = self._view_features(on_every_device(mesh, encoder.variables))
    head_views = views
    if heads and encoder.student is not None:
      variables = on_every_device(mesh, encoder.student.variables)
      head_views = self._view_features(variables)
    run = functools.partial(measure, sample=self._sample, pixels=self._pixels)
    measured = {
      "backbone": run(lambda: features.moment, test.h, test.labels, views)
    }
    # The spectrum record has them, for every encoder.
    for name in ("singular_values", "deviation"):
      measured["backbone"]["curves"].pop(name, None)
    for name, head in heads.items():
      outputs: Matrix = _HeadOutputs(heads_see.train.h, head)
      moment = functools.partial(diagnostics.second_moment, outputs)
      measured[name] = run(
        functools.cache(moment),
        _HeadOutputs(heads_see.test.h, head),
        test.labels,
        np.asarray(head(head_views), np.float32),
      )
    return [
      DiagnosticsRecord(
        **encoder.fields(self._dataset.name)
        | ({} if at == "backbone" else {"backbone": "student"}),
        at=at,
        **self._sample_fields,
        **numbers,
      )
      for at, numbers in (measured | lost).items()
    ]


def sample_settings(settings: Probe) -> dict[str, int]:
  """Returns the record fields that say which images and views were asked for.

  Records with other values are of other views.
  """
  return {
    "images_requested": settings.diagnostic_images,
    "views": settings.diagnostic_views,
  }
