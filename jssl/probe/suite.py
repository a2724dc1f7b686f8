"""All probes, and the spectrum, of one feature set."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from jax.sharding import Mesh

from jssl.config.schema import Probe
from jssl.diagnostics import spectrum
from jssl.probe import knn, linear, mlp, splits
from jssl.probe.classes import classes_record
from jssl.probe.dataset import FeatureSet
from jssl.probe.features import Features
from jssl.probe.heads import Head
from jssl.probe.records import ProbeRecord, Record, SpectrumRecord
from jssl.probe.retrieval import retrieval_record
from jssl.probe.splits import Result

# Rows of features for a classifier at once.
_ROWS = 10_000


def fits_in_memory(
  settings: Probe, train: Features, label_fraction: float
) -> bool:
  """True if the full-batch linear probe fits in `probe.memory_limit_gib`."""
  rows, dim = train.h.shape
  members = settings.seeds * len(settings.linear_l2_values)
  copies = 1
  if label_fraction < 1:  # Each seed has its own rows, and folds.
    members, copies = members * linear.FOLDS, settings.seeds
  # Logits, their exponentials and the residuals are alive at once.
  numbers = 2 * copies * dim + 3 * members * train.num_classes
  limit = settings.memory_limit_gib * 2**30
  return 4 * label_fraction * rows * numbers <= limit


def fit_linear(
  settings: Probe,
  train: Features,
  test: Features,
  mesh: Mesh,
  label_fraction: float = 1.0,
) -> Result:
  """Fits the linear probe, in minibatches if memory is short."""
  if fits_in_memory(settings, train, label_fraction):
    return linear.probe(
      train, test, settings, mesh=mesh, label_fraction=label_fraction
    )
  return mlp.probe(
    train,
    test,
    settings,
    mesh=mesh,
    label_fraction=label_fraction,
    # Adam finds the optimum of the convex loss from this rate for any l2.
    learning_rates=(3e-3,),
    l2_values=settings.linear_l2_values,
    hidden_dims=(),
  )


def fit_all(
  settings: Probe, train: Features, test: Features, mesh: Mesh
) -> Iterator[tuple[str, float, Result]]:
  """Yields (probe, label fraction, result) for each probe of the settings."""
  of_labels = partial(fit_linear, settings, train, test, mesh)
  if "linear" in settings.probes:
    yield "linear", 1.0, of_labels(1.0)
  if "knn" in settings.probes:
    yield "knn", 1.0, knn.probe(train, test, settings, mesh=mesh)
  if "mlp" in settings.probes:
    found = mlp.probe(
      train,
      test,
      settings,
      mesh=mesh,
      learning_rates=settings.mlp_learning_rates,
      l2_values=settings.mlp_l2_values,
      hidden_dims=settings.mlp_hidden_dims,
    )
    yield "mlp", 1.0, found
  if "linear" in settings.probes:
    for label_fraction in settings.label_fractions:
      yield "linear", label_fraction, of_labels(label_fraction)


def settings_of_student(settings: Probe) -> Probe:
  """Returns the settings of the student beside a teacher: quick probes only."""
  probes = tuple(name for name in settings.probes if name != "mlp")
  return dataclasses.replace(settings, probes=probes, label_fractions=())


def vectors(settings: Probe, kind: str) -> str:
  """Returns the field `vectors` of records of one kind of features."""
  if kind == "pixels":
    return "pooled"
  several = f" of {settings.blocks} blocks" if settings.blocks > 1 else ""
  return settings.features + several


def probe_records(
  settings: Probe,
  features: FeatureSet,
  dataset: str,
  class_names: Sequence[str],
) -> list[Record]:
  """Fits all probes and returns their records; LabelsError if impossible.

  Records of the classes are of the linear probe with all labels, and the last
  record is that of retrieval. The student beside a teacher has only some
  probes, see `settings_of_student`.
  """
  if features.encoder.kind == "student":
    settings = settings_of_student(settings)
  features = features.selected(settings)
  train, test = features.train, features.test
  splits.check_labels(train, test, dataset)
  fields = {
    **features.encoder.fields(dataset),
    "vectors": vectors(settings, features.encoder.kind),
  }
  records: list[Record] = []
  started = time.perf_counter()
  for probe, label_fraction, result in fit_all(
    settings, train, test, features.mesh
  ):
    # More than asked for in rare classes.
    used = splits.subset(train.labels, fraction=label_fraction, seed=0)
    records.append(
      ProbeRecord(
        **fields,
        probe=probe,
        seeds=settings.seeds,
        label_fraction=label_fraction,
        label_fraction_used=len(used) / len(train.labels),
        test_accuracy=float(result.test_accuracy.mean()),
        test_accuracy_std=float(result.test_accuracy.std()),
        validation_accuracy=float(result.validation_accuracy.mean()),
        chosen=result.chosen,
        seconds=time.perf_counter() - started,
        time=time.time(),
      )
    )
    if (probe, label_fraction) == ("linear", 1.0) and result.predict:
      found = result.predict(test.h)
      records.append(
        classes_record(
          found,
          test.labels,
          class_names,
          probe=probe,
          seeds=settings.seeds,
          **fields,
        )
      )
    started = time.perf_counter()
  if settings.retrieval_neighbours:
    records.append(
      retrieval_record(
        train,
        test,
        class_names,
        k=settings.retrieval_neighbours,
        mesh=features.mesh,
        **fields,
      )
    )
  return records


def classifier_record(
  features: FeatureSet, dataset: str, classifier: Head
) -> ProbeRecord:
  """Returns the record of a run's own classifier on pooled features."""
  started, test, right = time.perf_counter(), features.test, 0
  for rows in np.array_split(np.arange(len(test.h)), -(-len(test.h) // _ROWS)):
    guesses = np.argmax(np.asarray(classifier(test.h[rows])), axis=1)
    right += int(np.sum(guesses == test.labels[rows]))
  return ProbeRecord(
    **features.encoder.fields(dataset),
    probe="classifier",
    label_fraction=1.0,
    label_fraction_used=1.0,
    test_accuracy=right / len(test.h),
    test_accuracy_std=0.0,
    validation_accuracy=None,
    seeds=1,
    chosen={},
    seconds=time.perf_counter() - started,
    time=time.time(),
  )


def spectrum_record(features: FeatureSet, dataset: str) -> SpectrumRecord:
  """Returns the spectrum; ValueError if there are too few images."""
  values = spectrum.values_of(features.moment)
  return SpectrumRecord(
    **features.encoder.fields(dataset),
    singular_values=values.tolist(),
    deviation=np.sort(features.moment.std)[::-1].tolist(),
    collapse_auc=spectrum.collapse_auc(values),
  )
