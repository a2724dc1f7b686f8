"""Several runs side by side, as one HTML page."""

import os
from collections.abc import Sequence

from flax.traverse_util import flatten_dict

from jssl.config.parse import to_dict
from jssl.probe.accuracy import AccuracyTable, format_accuracy
from jssl.probe.records import PROBES, ProbeRecord, SpectrumRecord
from jssl.report import html
from jssl.report.charts import as_svg, paths
from jssl.report.read import Run
from jssl.report.verdict import verdict
from jssl.runtime.paths import StorePath, as_path


def run_names(runs: Sequence[Run]) -> list[str]:
  """Returns the paths of the workdirs below their common folder.

  Raises:
    ValueError: if two runs are the same, whose curves would be merged.
  """
  absolute = [_location(run) for run in runs]
  for path in absolute:
    if absolute.count(path) > 1:
      raise ValueError(f"expected different runs, received {path} twice")
  folder = _common_folder(runs)
  return [os.path.relpath(path, folder) for path in absolute]


def _location(run: Run) -> str:
  """Returns an absolute path; that of a bucket too, below the root."""
  is_local = not isinstance(run.workdir, StorePath)
  return os.path.abspath(run.workdir if is_local else f"/{run.workdir}")


def _common_folder(runs: Sequence[Run]) -> str:
  return os.path.commonpath([_location(run) for run in runs])


def _accuracies(run: Run, dataset: str) -> dict[str, str]:
  """Returns test accuracy by probe of the checkpoint that a report shows."""
  step = run.step(dataset)
  return {
    record.name: format_accuracy(record.test_accuracy, record.test_accuracy_std)
    for record in sorted(
      run.select(ProbeRecord, dataset=dataset, step=step, features="backbone"),
      key=lambda r: (-r.label_fraction, [*PROBES].index(r.probe)),
    )
  }


def accuracy_table(runs: Sequence[Run], dataset: str) -> AccuracyTable:
  """Tabulates the test accuracy of each run in percent; "-" if not measured."""
  cells = [_accuracies(run, dataset) for run in runs]
  columns = [*dict.fromkeys(name for row in cells for name in row)]
  rows = []
  for name, run, row in zip(run_names(runs), runs, cells, strict=True):
    step = run.step(dataset)
    own = "-" if step is None else f"{step:,}"
    rows.append([name, own, *(row.get(column, "-") for column in columns)])
  heading = f"{dataset}: test accuracy in %"
  return AccuracyTable([heading, "step", *columns], rows)


def config_differences(runs: Sequence[Run]) -> list[list[str]]:
  """Returns a row for each key of the configs that differs: key, values."""
  configs = [flatten_dict(to_dict(run.config), sep=".") for run in runs]
  keys = dict.fromkeys(key for config in configs for key in config)
  rows = ([key, *(str(c.get(key, "-")) for c in configs)] for key in keys)
  return [row for row in rows if len({*row[1:]}) > 1]


def tables(runs: Sequence[Run]) -> list[AccuracyTable]:
  """Returns the accuracy table of each set that a run was probed on."""
  names = dict.fromkeys(name for run in runs for name in run.datasets)
  return [accuracy_table(runs, name) for name in names]


def render(runs: Sequence[Run]) -> str:
  """Renders a comparison of runs as HTML."""
  names = run_names(runs)
  shown = tables(runs)
  dataset = next((name for run in runs for name in run.datasets), "")
  charts = []
  for title, cls, value, scale in (
    ("accuracy of the linear probe in %", ProbeRecord, "test_accuracy", 100),
    ("collapse AUC", SpectrumRecord, "collapse_auc", 1),
  ):
    fields: dict[str, object] = {"dataset": dataset, "features": "backbone"}
    if cls is ProbeRecord:
      fields |= {"probe": "linear", "label_fraction": 1}
    series = {
      name: [
        (r.step, scale * getattr(r, value)) for r in run.select(cls, **fields)
      ]
      for name, run in zip(names, runs, strict=True)
    }
    if series := {name: points for name, points in series.items() if points}:
      figure = paths(series, title=f"{title}, {dataset}", x_label="step")
      charts.append(as_svg(figure, alt=f"{title} over steps, by run"))
  return html.render(
    "jssl.report",
    "comparison.html.j2",
    title=f"{len(runs)} runs compared",
    footer=str(as_path(_common_folder(runs).replace("/gs:/", "gs://"))),
    verdicts=[
      (name, verdict(run, set_, run.step(set_)))
      for name, run in zip(names, runs, strict=True)
      for set_ in [(run.datasets or [run.config.data.name])[0]]
    ],
    tables=shown,
    charts=charts,
    names=names,
    differences=config_differences(runs),
  )
