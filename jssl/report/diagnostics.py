"""The section of the report on diagnostics of features."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jssl import diagnostics
from jssl.probe.records import (
  ConcentrationRecord,
  DiagnosticsRecord,
  SpectrumRecord,
)
from jssl.report import figures
from jssl.report.charts import as_svg
from jssl.report.read import Run

# Heading, name, number of decimals.
COLUMNS = (
  ("collapse AUC", "collapse_auc", 3),
  ("RankMe", "rank_me", 1),
  ("LiDAR", "lidar", 1),
  ("alpha-ReQ", "alpha_req", 2),
  ("alignment", "alignment", 3),
  ("uniformity", "uniformity", 2),
  ("H[M|Z], nats", "image_entropy_given_features", 2),
  ("nearest-mean error", "nearest_mean_error", 3),
)
BOUND_TERMS = (
  ("2 (1 - sigma)", "outside"),
  ("R / min p", "diverging"),
  ("sigma L delta / r", "diameter"),
  ("2 sigma eps / r", "tolerance"),
  ("rho", "rho"),
  ("Delta", "spread"),
  ("max mu . mu", "max_inner"),
  ("must be below", "threshold"),
  ("bound", "bound"),
)


class Collapse(NamedTuple):
  """How collapsed a run is, and since when.

  `aucs` has the collapse AUC by step. `onset` is the step with the lowest AUC
  before a lasting rise. `best` has the least collapsed steps, the best first.
  """

  aucs: dict[int, float]
  random: float | None
  collapsed: bool
  onset: int | None
  best: list[int]


def collapse(run: Run, dataset: str) -> Collapse | None:
  """Measures the collapse of a run; None if no spectrum was measured."""
  aucs, random = (
    {
      record.step: record.collapse_auc
      for record in run.select(
        SpectrumRecord, dataset=dataset, features=features
      )
    }
    for features in ("backbone", "random")
  )
  if not aucs:
    return None
  steps, values = [*aucs], [*aucs.values()]
  return Collapse(
    aucs,
    random=random.get(0),
    # Above this AUC nearly all variance is in one direction.
    collapsed=values[-1] > 0.99,
    onset=diagnostics.collapse_onset(steps, values) if len(steps) > 2 else None,
    best=[steps[i] for i in diagnostics.rank_checkpoints(values)[:3]],
  )


def _tables(
  shown: Sequence[tuple[str, DiagnosticsRecord]],
) -> dict[str, tuple[list[str], list[list[str]]]]:
  """Returns (headings, rows) of the measures, the bound, and all others."""
  bound = [(heading, f"bound/{name}", 3) for heading, name in BOUND_TERMS]
  others = {name for _, record in shown for name in record.values}
  others -= {"bound/holds", *(name for _, name, _ in (*COLUMNS, *bound))}

  def cells(record: DiagnosticsRecord, columns: Iterable) -> list[str]:
    return [
      f"{record.values[name]:,.{digits}f}" if name in record.values else "-"
      for _, name, digits in columns
    ]

  def condition(record: DiagnosticsRecord) -> str:
    holds = record.values.get("bound/holds")
    return "-" if holds is None else "holds" if holds else "does not hold"

  return {
    "measures": (
      ["features", *(heading for heading, _, _ in COLUMNS)],
      [[title, *cells(record, COLUMNS)] for title, record in shown],
    ),
    "bound": (
      ["features", *(heading for heading, _, _ in bound), "condition"],
      [
        [title, *cells(record, bound), condition(record)]
        for title, record in shown
        if "bound/rho" in record.values
      ],
    ),
    "others": (
      ["measure", *(title for title, _ in shown)],
      [
        [name, *(cells(record, [("", name, 3)])[0] for _, record in shown)]
        for name in sorted(others)
      ],
    ),
  }


def values(run: Run, dataset: str, step: int | None) -> dict[str, Any]:
  """Returns the variables of the template `diagnostics.html.j2`.

  Shows a step, or the last one with diagnostics if it has none.
  """
  of_run = run.select(DiagnosticsRecord, dataset=dataset, features="backbone")
  found: dict[str, Any] = {
    "workdir": run.workdir,
    "collapse": collapse(run, dataset),
    "diagnosed": None,
  }
  if not of_run:
    return found
  if step not in {record.step for record in of_run}:
    step = of_run[-1].step
  # The backbone comes last, because tables highlight the last row.
  here = sorted(
    (record for record in of_run if record.step == step),
    key=lambda record: record.at == "backbone",
  )
  random = run.select(DiagnosticsRecord, dataset=dataset, features="random")
  shown = [
    *(("random backbone", record) for record in random),
    *((f"{record.at}, step {step:,}", record) for record in here),
  ]
  curves = run.select(ConcentrationRecord, dataset=dataset)
  spectra = run.select(SpectrumRecord, dataset=dataset, features="backbone")
  return found | {
    "diagnosed": step,
    "sample": here[-1],
    "tables_of_diagnostics": _tables(shown),
    "missing": [
      (title, name, reason)
      for title, record in shown
      for name, reason in record.not_measured.items()
    ],
    "over_time": as_svg(
      figures.features_over_time(spectra, of_run),
      alt="Spectra, and alignment against uniformity, over steps",
    ),
    "concentration": as_svg(
      figures.concentration(curves[-1] if curves else None, here),
      alt="Concentration of the classes, and divergence of views",
    ),
  }
