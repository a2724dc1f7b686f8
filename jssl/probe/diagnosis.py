"""Diagnostics of checkpoints: of the backbone and of each head's outputs."""

import functools
import os
from typing import Any

import numpy as np
from jaxtyping import Int

from jssl import checkpoint, diagnostics
from jssl.config.build import build_objective
from jssl.config.schema import Config, Probe
from jssl.mesh import on_every_device
from jssl.models.backbone import Backbone
from jssl.probe.dataset import FeatureSet, ProbeDataset
from jssl.probe.features import NotFiniteError
from jssl.probe.heads import Head, HeadOutputs, Heads
from jssl.probe.measures import Matrix, measure
from jssl.probe.records import ConcentrationRecord, DiagnosticsRecord
from jssl.probe.sample import balanced_rows, draw_sample, measure_views


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
    spec = backbone.spec(image_shape, dataset.train.num_classes)
    self._heads = Heads(self._objective, spec)
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
        heads = self._heads.restore(workdir, encoder.step)
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
      outputs: Matrix = HeadOutputs(heads_see.train.h, head)
      moment = functools.partial(diagnostics.second_moment, outputs)
      measured[name] = run(
        functools.cache(moment),
        HeadOutputs(heads_see.test.h, head),
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
