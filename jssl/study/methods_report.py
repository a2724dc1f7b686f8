"""Report of the `methods` study as Markdown, JSON and SVG."""

import dataclasses
import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from jssl.config.parse import to_dict
from jssl.config.schema import Config
from jssl.probe import records
from jssl.probe.accuracy import format_accuracy
from jssl.probe.records import DiagnosticsRecord
from jssl.report import charts
from jssl.report import write as report
from jssl.report.diagnostics import COLUMNS
from jssl.report.read import read
from jssl.report.tables import markdown_table
from jssl.study.methods import CLOSE_POINTS, Row, run_row
from jssl.study.power import difference
from jssl.study.trials import Environ, Trial

_MARK = "†"
PROBES = {k: v for k, v in records.PROBES.items() if k != "classifier"}
_HEAD_GRADIENT = "head_gradient"


@dataclasses.dataclass(frozen=True)
class About:
  """Setup of a study, and the command line that repeats it."""

  command: str
  machine: str
  dataset: str
  steps: str
  batch_size: str
  backbone: str
  seeds: int
  probe_seeds: int


def _describe_model(config: Config) -> str:
  model = to_dict(config)["model"]
  name = model.pop("name")
  return f"{name} ({', '.join(f'{k}={v}' for k, v in model.items())})"


def about(trials: Sequence[Trial], *, command: str, environ: Environ) -> About:
  """Describes the setup; environment variables that change the speed too."""

  def distinct(value: Callable[[Config], object]) -> str:
    values = dict.fromkeys(str(value(trial.config)) for trial in trials)
    return " or ".join(values)

  names = [n for n in ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES") if n in environ]
  settings = [f"{name}={shlex.quote(environ[name])}" for name in names]
  return About(
    command=" ".join([*settings, command]),
    machine=report.machine(),
    dataset=distinct(lambda config: config.data.name),
    steps=distinct(lambda config: config.train.steps),
    batch_size=distinct(lambda config: config.data.batch_size),
    backbone=distinct(_describe_model),
    seeds=len({trial.seed for trial in trials}),
    probe_seeds=trials[0].config.probe.seeds,
  )


def _cells(row: Row) -> list[str]:
  def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

  if row.failure:
    return [row.name, f"failed: {row.failure}", *["-"] * (len(PROBES) + 2)]
  accuracies = [row.accuracies.get(probe) for probe in PROBES]
  return [
    f"{row.name} {_MARK}" if row.is_close_to_random else row.name,
    *("-" if a is None else format_accuracy(a.mean, a.std) for a in accuracies),
    number(row.above_random_points, "+.1f"),
    number(row.collapse_auc, ".3f"),
    number(row.steps_per_second, ".2f"),
  ]


def markdown(about: About, rows: Sequence[Row]) -> str:
  """Returns the setup and the table."""
  probe = f"the {about.probe_seeds} seeds of the probe"
  over = (
    f"{about.seeds} pretraining seeds (raw pixels: over {probe})"
    if about.seeds > 1
    else f"{probe}, of one pretraining seed"
  )
  headings = ["", *PROBES.values(), "above random", "collapse AUC", "steps/s"]
  lines = [
    f"# Methods at one budget: {about.dataset}",
    "",
    f"    {about.command}",
    "",
    f"- machine: {about.machine}",
    f"- pretraining: {about.steps} steps of {about.batch_size} images",
    f"- backbone: {about.backbone}",
    "",
    f"Test accuracy in %: mean ± standard deviation over {over}. Above random: "
    "linear accuracy minus that of the random backbone of the same model, in "
    "percentage points. Collapse AUC: of the backbone's train features, 1 at "
    "collapse. Steps/s: median over logged rows without the first.",
    "",
    markdown_table(headings, [_cells(row) for row in rows]),
  ]
  if any(row.is_close_to_random for row in rows):
    lines.append(
      f"{_MARK} less than {CLOSE_POINTS:g} points above the random backbone.\n"
    )
  return "\n".join(lines)


def _diagnostics(trial: Trial) -> dict[str, dict[str, float]]:
  """Diagnostics of the last checkpoint, by backbone or head.

  With an inner loop, the final norm of the head's gradient is added.
  """
  run = read(trial.workdir)
  gradients = run.metrics.get("head_gradient_norm", np.zeros(0))
  records = run.select(
    DiagnosticsRecord,
    dataset=trial.dataset,
    features="backbone",
    step=trial.steps,
  )
  extra = {_HEAD_GRADIENT: float(gradients[-1])} if gradients.size else {}
  return {record.at: {**record.values, **extra} for record in records}


def _started(trials: Sequence[Trial]) -> list[Trial]:
  return [trial for trial in trials if (trial.workdir / "config.json").exists()]


def diagnostics_table(trials: Sequence[Trial]) -> str:
  """Returns a table of diagnostics over seeds; empty without any."""
  by_name: dict[str, list[dict[str, float]]] = {}
  for trial in _started(trials):
    for at, values in _diagnostics(trial).items():
      by_name.setdefault(f"{trial.method}, {at}", []).append(values)
  if not by_name:
    return ""
  columns = (*COLUMNS, ("head gradient", _HEAD_GRADIENT, 3))

  def cell(seeds: Sequence[Mapping[str, float]], key: str, digits: int) -> str:
    known = [values[key] for values in seeds if key in values]
    if not known:
      return "-"
    mean = f"{np.mean(known):.{digits}f}"
    return f"{mean} ± {np.std(known):.{digits}f}" if len(known) > 1 else mean

  table = markdown_table(
    ["", *(heading for heading, _, _ in columns)],
    [
      [name, *(cell(seeds, key, digits) for _, key, digits in columns)]
      for name, seeds in by_name.items()
    ],
  )
  return (
    "Diagnostics of the last checkpoint: mean ± standard deviation over "
    "pretraining seeds. Head gradient: norm after the last inner loop.\n\n"
    f"{table}"
  )


def differences_table(trials: Sequence[Trial]) -> str:
  """Returns differences of linear accuracy to the first method.

  Only over the seeds that both methods have; methods with less than 3 of them
  are left out.
  """
  by_method: dict[str, dict[int, float]] = {}
  for trial in _started(trials):
    row = run_row(trial, trial.method, "backbone", trial.steps)
    if row.linear is not None:
      points = by_method.setdefault(trial.method, {})
      points[trial.seed] = 100 * row.linear
  reference = trials[0].method if trials else ""
  base = by_method.pop(reference, {})
  rows = []
  for name, values in by_method.items():
    seeds = sorted(values.keys() & base.keys())
    if len(seeds) < 3:
      continue
    found = difference([values[s] for s in seeds], [base[s] for s in seeds])
    rows.append(
      [
        name,
        str(len(seeds)),
        f"{found.mean:+.2f}",
        f"{found.low:+.2f} to {found.high:+.2f}",
        f"{found.bootstrap_low:+.2f} to {found.bootstrap_high:+.2f}",
        f"{found.detectable:.2f}",
      ]
    )
  if not rows:
    return ""
  headings = [
    *("", "seeds", "difference", "95%, t", "95%, bootstrap", "detectable")
  ]
  return (
    f"Linear accuracy minus that of {reference}, in percentage points, paired "
    "by pretraining seed. Detectable: the true difference that such a study "
    "would find in 80% of cases. Bootstrap intervals are too narrow for few "
    f"seeds.\n\n{markdown_table(headings, rows)}"
  )


def draw(rows: Sequence[Row]) -> Figure:
  """Draws accuracies, one line per row; the best linear accuracy on top."""
  ascending = sorted(rows, key=lambda row: row.linear or 0.0)

  series = {
    name: {
      row.name: (100 * accuracy.mean, 100 * accuracy.std)
      for row in ascending
      if (accuracy := row.accuracies.get(probe))
    }
    for probe, name in PROBES.items()
  }
  return charts.dots(series, title="test accuracy, %")


def write(
  workdir: pathlib.Path,
  about: About,
  rows: Sequence[Row],
  trials: Sequence[Trial] = (),
) -> str:
  """Writes methods.md, methods.svg and methods.json; returns the Markdown."""
  runs = [
    {
      "method": trial.method,
      "seed": trial.seed,
      **dataclasses.asdict(
        run_row(trial, trial.method, "backbone", trial.steps)
      ),
      "diagnostics": _diagnostics(trial),
    }
    for trial in _started(trials)
  ]
  page = "\n".join(
    filter(
      None,
      (
        markdown(about, rows),
        differences_table(trials),
        diagnostics_table(trials),
      ),
    )
  )
  svg = charts.as_svg(draw(rows), alt="accuracy of each method")
  numbers = {"rows": [dataclasses.asdict(row) for row in rows], "runs": runs}
  report.write(
    workdir,
    "methods",
    page,
    figures={"methods": svg},
    data={**dataclasses.asdict(about), **numbers},
  )
  return page
