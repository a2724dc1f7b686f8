"""Rows of `probe.jsonl` on one subject: its spectrum, and its probes."""

import time

import numpy as np

from jssl.config.schema import Probe
from jssl.diagnostics import spectrum
from jssl.probe import splits, suite
from jssl.probe.dataset import JudgedSet, Seen
from jssl.probe.encoders import Subject
from jssl.probe.records import Part, Row


def _about(subject: Subject, judge: JudgedSet) -> Row:
  return {
    "step": subject.step,
    "dataset": judge.name,
    "features": subject.kind,
  }


def nothing(part: Part, subject: Subject, judge: JudgedSet, why: str) -> Row:
  """Returns the row of a part that can't be measured, with the reason."""
  row = {**_about(subject, judge), "measure": part, "not_measured": why}
  if part != "diagnostics":
    return row
  reasons = {"features": why}
  return {
    **row,
    "at": "backbone",
    "values": {},
    "curves": {},
    "not_measured": reasons,
  }


def of_spectrum(seen: Seen, judge: JudgedSet) -> list[Row]:
  """Returns the spectrum of the features of train, which needs no labels."""
  try:
    moment = seen.moment()
    values = spectrum.values_of(moment)
  except ValueError as error:  # Too few images; a probe is possible still.
    return [nothing("spectrum", seen.subject, judge, str(error))]
  return [
    {
      **_about(seen.subject, judge),
      "measure": "spectrum",
      "singular_values": values.tolist(),
      "deviation": np.sort(moment.std)[::-1].tolist(),
      "collapse_auc": spectrum.collapse_auc(values),
    }
  ]


def of_probes(seen: Seen, judge: JudgedSet, settings: Probe) -> list[Row]:
  """Fits, and returns a row for each probe.

  Raises:
    ValueError: images have no label, or classes too few images.
  """
  splits.check_labels(seen.train, seen.test, judge.name)
  rows: list[Row] = []
  started = time.perf_counter()
  for probe, share, result in suite.fit_all(
    settings, seen.train, seen.test, judge.mesh
  ):
    rows.append(
      {
        **_about(seen.subject, judge),
        "probe": probe,
        "label_fraction": share,
        "test_accuracy": float(result.test_accuracy.mean()),
        "test_accuracy_std": float(result.test_accuracy.std()),
        "validation_accuracy": float(result.validation_accuracy.mean()),
        "seeds": settings.seeds,
        "chosen": result.chosen,
        "seconds": time.perf_counter() - started,
        "time": time.time(),
      }
    )
    started = time.perf_counter()
  return rows
