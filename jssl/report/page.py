"""The report of a run as one HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jssl.checkpoint import CheckpointError
from jssl.config.parse import to_dict
from jssl.probe.accuracy import AccuracyTable, tables
from jssl.probe.records import (
  PROBES,
  ClassesRecord,
  NotMeasuredRecord,
  ProbeRecord,
  Record,
  SpectrumRecord,
)
from jssl.probe.selection import RULES, choices
from jssl.report import charts, diagnostics, figures, html, samples
from jssl.report.charts import as_svg
from jssl.report.read import PROBE_SECONDS, TRAINING_SECONDS, GoodputRow, Run
from jssl.report.verdict import verdict
from jssl.runtime.paths import Path

_MOST_CLASSES, _MOST_CONFUSED = 20, 10


def _facts(run: Run, config: dict[str, Any]) -> dict[str, str]:
  facts = {
    "data set": config["data"]["name"],
    "objective": config["objective"]["name"],
    "model": config["model"]["name"],
    "steps done": f"{run.steps_done:,} of {run.config.train.steps:,}",
  }
  if "images_per_second" in run.metrics:
    # The median, because the first rows include compilation.
    speed = np.nanmedian(run.metrics["images_per_second"])
    facts["images/s, median"] = f"{speed:,.0f}"
    if "mfu" in run.metrics:
      mfu = np.nanmedian(run.metrics["mfu"])
      facts["model FLOPs utilisation, median"] = f"{mfu:.1%}"
    facts["training seconds"] = f"{run.seconds:,.0f}"
  return facts


def _views(run: Run) -> dict[str, Any]:
  """Returns data URIs of images and of their views, or the error."""
  try:
    images, views = samples.augmented(run.config, images=8, num_views=4)
  except (OSError, ValueError, TypeError) as error:
    return {"error": str(error)}
  return {
    "images": samples.data_uri(images[None]),
    "views": samples.data_uri(views),
    "num_images": len(images),
    "num_views": len(views),
  }


def _tokens(run: Run, step: int | None) -> dict[str, Any]:
  """Returns rows of pictures of patch tokens, or the reason for none."""
  if step is None:
    return {"error": "No checkpoint has been probed yet."}
  try:
    found = samples.token_maps(run, step, images=8)
  except (OSError, ValueError, CheckpointError) as error:
    return {"error": f"Patch tokens cannot be drawn: {error}"}
  return {"rows": [(name, samples.data_uri(row[None])) for name, row in found]}


def _map(run: Run, dataset: str, step: int | None) -> dict[str, Any]:
  """Returns the map of the test features and neighbours, or the reason."""
  most = charts.MAX_LOOKS
  found = step is not None and samples.cached_features(
    run,
    dataset,
    step=step,
    limit=2000,
    classes=most,
    backbone=run.backbone(dataset, step),
  )
  if not found:
    return {"error": "This workdir has no cached test features."}
  if not np.ptp(found.h, axis=0).any():
    return {"error": "All test features are the same: they have collapsed."}
  drawing = figures.scatter(
    samples.project_2d(found.h), found.labels, found.class_names
  )
  return {
    "svg": as_svg(drawing, alt="Test features in the plane, by class"),
    "points": len(found.h),
    "shown": min(most, len(found.class_names)),
    "classes": len(found.class_names),
    "gallery": samples.nearest(found, queries=6, neighbours=7),
  }


def _classes(run: Run, dataset: str, step: int | None) -> dict[str, Any]:
  """Returns rows of the worst classes, confusion and its largest errors."""
  found = run.select(
    ClassesRecord, dataset=dataset, features="backbone", step=step
  )
  if not found:
    return {}
  record = found[-1]
  seen = [
    (accuracy, name, images)
    for accuracy, name, images in zip(
      record.accuracy, record.names, record.images, strict=True
    )
    if images
  ]
  return {
    "accuracy": [
      [name, f"{images:,}", f"{100 * accuracy:.1f}"]
      for accuracy, name, images in sorted(seen)[:_MOST_CLASSES]
    ],
    "classes": len(seen),
    "confusion": [
      [name, *(count / max(sum(row), 1) for count in row)]
      for name, row in zip(record.names, record.confusion, strict=False)
      if len(record.names) <= _MOST_CLASSES
    ],
    "confused": [
      [label, predicted, f"{times / record.seeds:,.1f}"]
      for label, predicted, times in record.most_confused(_MOST_CONFUSED)
    ],
  }


def _time(
  rows: Sequence[GoodputRow], names: Mapping[str, str]
) -> dict[str, Any]:
  """Returns starts, seconds and a table of seconds by activity."""
  total = sum(row["seconds"] for row in rows) or 1.0  # Without rows.
  table = []
  for kind, name in names.items():
    seconds = sum(row[kind] for row in rows)
    table.append((name, f"{seconds:,.1f} s", f"{seconds / total:.1%}"))
  return {"starts": len(rows), "seconds": total, "rows": table}


def render(run: Run) -> str:
  """Renders the report as HTML. Missing inputs leave a sentence."""
  config = to_dict(run.config)
  probed = run.datasets or [r.dataset for r in run.select(SpectrumRecord)]
  dataset = probed[0] if probed else run.config.data.name
  step = run.step(dataset)
  fitted = sorted(
    run.select(ProbeRecord, dataset=dataset, label_fraction=1),
    key=lambda record: [*PROBES].index(record.probe),
  )
  spectra = run.select(SpectrumRecord, dataset=dataset)

  accuracy = curves = spectrum = None
  if run.metrics:
    alt = "Metrics of the training over steps"
    curves = as_svg(figures.curves(run.metrics), alt=alt)
  if step is not None and fitted:
    alt = "Test accuracy over steps"
    accuracy = as_svg(figures.accuracy(fitted), alt=alt)
  if step is not None and spectra:
    alt = "Singular values, and collapse AUC over steps"
    spectrum = as_svg(figures.spectrum(spectra, step), alt=alt)
  return html.render(
    "jssl.report",
    "report.html.j2",
    title=f"{config['objective']['name']} on {run.config.data.name}",
    facts=_facts(run, config),
    footer=str(run.workdir.absolute()),
    run=run,
    dataset=dataset,
    step=step,
    verdict=verdict(run, dataset, step),
    reached=[
      (record.name, record.test_accuracy)
      for record in fitted
      if (record.features, record.step) == ("backbone", step)
    ],
    backbone=run.backbone(dataset, step),
    tables=[
      table
      for name in run.datasets
      for table in tables(run.records, name, step=run.step(name))
    ],
    not_measured=run.select(NotMeasuredRecord),
    training_time=_time(run.goodput, TRAINING_SECONDS),
    probe_time=_time(run.probe_goodput, PROBE_SECONDS),
    views=_views(run),
    accuracy=accuracy,
    curves=curves,
    spectrum=spectrum,
    **diagnostics.values(run, dataset, step),
    classes=_classes(run, dataset, step),
    choices=[
      [
        RULES[choice.rule],
        f"{choice.step:,}",
        f"{choice.score:.3f}",
        f"{100 * choice.accuracy:.1f}",
        f"{100 * choice.cost:.1f}",
      ]
      for choice in choices(run.records, dataset)
    ],
    map=_map(run, dataset, step),
    tokens=_tokens(run, step),
    config=config,
  )


def render_records(
  workdir: Path,
  records: Sequence[Record],
  shown: Sequence[AccuracyTable],
) -> str:
  """Renders the records of published weights in a workdir without a run."""
  return html.render(
    "jssl.report",
    "records.html.j2",
    title="Published weights",
    footer=str(workdir.absolute()),
    workdir=workdir,
    tables=shown,
    not_measured=[r for r in records if isinstance(r, NotMeasuredRecord)],
  )
