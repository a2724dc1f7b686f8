"""Whether augmentations that concentrate classes give better class means.

Huang et al., ICLR 2023: for each run of a study, 1 - sigma(delta) of its
augmentation, beside the error of the nearest class mean and the accuracy of its
features. All are measured on the same images with the same deltas.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from jssl import build, diagnostics, mesh, sections
from jssl.augment import Augment
from jssl.diagnostics import ConcentrationCurve
from jssl.probe.sample import draw_sample, spread_rows, view_pixels
from jssl.report import figures
from jssl.report.read import Run, read

_DELTAS = 24
# Of the deltas: where classes begin to be concentrated, half way, and late.
_SHOWN = (0.25, 0.5, 0.75)
_ERROR = "nearest_mean_error"


class Stack(NamedTuple):
  """An augmentation, and the runs that used it, one for each seed.

  Attributes:
    name: of the method.
    curve: 1 - sigma over delta.
    values: of the backbone's diagnostics by name, means over the runs.
    accuracies: on test by kind of probe, of the same checkpoint, likewise.
  """

  name: str
  curve: ConcentrationCurve
  values: dict[str, float]
  accuracies: dict[str, float]


def _last(name: str, run: Run) -> tuple[dict[str, float], dict[str, float]]:
  """Returns diagnostics and accuracies of the last step that has both."""
  own = run.config.data.name
  values = {
    d.step: d
    for d in run.diagnostics
    if (d.dataset, d.features, d.at) == (own, "backbone", "backbone")
  }
  accuracies: dict[int, dict[str, float]] = {}
  for s in run.scores:
    if (s.dataset, s.features, s.label_fraction) == (own, "backbone", 1):
      accuracies.setdefault(s.step, {})[s.probe] = s.test_accuracy
  if not values:
    raise ValueError(
      f"{name} was probed without --diagnostics; run `python -m jssl.probe "
      f"--workdir={run.workdir} --diagnostics`"
    )
  lacking = {
    step: found.not_measured.get(_ERROR, f"no {_ERROR} was measured")
    for step, found in values.items()
    if _ERROR not in found.values
  }
  both = values.keys() & accuracies.keys() - lacking.keys()
  if not both:
    raise ValueError(
      f"{name} has no step with both {_ERROR} and an accuracy: diagnosed are "
      f"{sorted(values)}, probed {sorted(accuracies)}"
      + "".join(f"; step {step}: {why}" for step, why in lacking.items())
    )
  return values[max(both)].values, accuracies[max(both)]


def _means(runs: Sequence[dict[str, float]]) -> dict[str, float]:
  """Returns the means of what all runs have."""
  names = [name for name in runs[0] if all(name in run for run in runs)]
  return {name: float(np.mean([run[name] for run in runs])) for name in names}


def _pixels(run: Run) -> tuple[Float[np.ndarray, "n v p"], np.ndarray]:
  """Returns views as the run's diagnostics saw them, and their labels."""
  config = run.config
  settings = build.section(config, "probe", sections.Probe)
  data = build.section(config, "data", sections.Data)
  source = build.source(config, data.split)
  # All are read, for the labels: the sets of studies are small.
  labels = np.asarray(source.fetch(np.arange(len(source)))["label"])
  sample = draw_sample(
    source,
    labels,
    spread_rows(labels, images=settings.diagnostic_images),
    build.section(config, "augment", Augment),
    num_views=settings.diagnostic_views,
    seed=config.get("seed", 0),
    mesh=mesh.make_mesh(1, 1),
  )
  return view_pixels(sample, batch_size=settings.batch_size), sample.labels


def collect(workdir: pathlib.Path) -> list[Stack]:
  """Returns the methods of a study.

  Args:
    workdir: of `python -m jssl.study methods --diagnostics`.

  Raises:
    ValueError: there are none, or one has no step that was diagnosed and
      probed.
  """
  methods: dict[str, list[Run]] = {}
  for path in sorted(workdir.glob("*/seed_*/config.json")):
    methods.setdefault(path.parent.parent.name, []).append(read(path.parent))
  if not methods:
    raise ValueError(
      f"{workdir} has no runs; --workdir must be that of `python -m jssl.study "
      "methods --diagnostics`"
    )
  last = {
    name: [_last(name, run) for run in runs] for name, runs in methods.items()
  }
  views = {name: _pixels(runs[0]) for name, runs in methods.items()}
  # From what all of them have within classes.
  curves = {
    name: diagnostics.concentration_curve(pixels, labels)
    for name, (pixels, labels) in views.items()
  }
  found = np.concatenate([curve.deltas for curve in curves.values()])
  deltas = np.quantile(found, np.linspace(0.05, 0.95, _DELTAS))
  stacks = []
  for name, (pixels, labels) in views.items():
    stacks.append(
      Stack(
        name,
        diagnostics.concentration_curve(pixels, labels, deltas=deltas),
        _means([values for values, _ in last[name]]),
        _means([accuracies for _, accuracies in last[name]]),
      )
    )
  return stacks


def _shown(stacks: Sequence[Stack]) -> list[int]:
  return [round(share * (len(stacks[0].curve.deltas) - 1)) for share in _SHOWN]


def markdown(stacks: Sequence[Stack]) -> str:
  """Returns the table, and the rank correlations that the theory expects."""
  deltas = stacks[0].curve.deltas
  shown = _shown(stacks)
  errors = [s.values[_ERROR] for s in stacks]
  probes = [
    p for p in ("linear", "knn") if all(p in s.accuracies for s in stacks)
  ]
  at = " | ".join(f"1 - sigma({deltas[i]:.1f})" for i in shown)
  names = "".join(f" {probe}, % |" for probe in probes)
  lines = [
    f"| augmentation | {at} | mean of the curve | nearest-mean error, % "
    f"| alignment |{names}",
    "|---" + "|---:" * (len(shown) + 3 + len(probes)) + "|",
  ]
  for s in sorted(stacks, key=lambda s: s.values[_ERROR]):
    outside = [s.curve.one_minus_sigma[i] for i in shown]
    cells = [
      *(f"{value:.3f}" for value in outside),
      f"{s.curve.one_minus_sigma.mean():.3f}",
      f"{100 * s.values[_ERROR]:.1f}",
      f"{s.values['alignment']:.3f}" if "alignment" in s.values else "-",
      *(f"{100 * s.accuracies[p]:.1f}" for p in probes),
    ]
    lines.append(f"| {s.name} | {' | '.join(cells)} |")

  def correlation(outside: Sequence[float]) -> str:
    if len(set(outside)) < 2 or len(set(errors)) < 2:
      return "not defined, all are equal"
    # Positive: less concentrated, more errors, as the theory has it.
    return f"{diagnostics.rank_correlation(outside, [-e for e in errors]):+.2f}"

  lines += [
    "",
    "Rank correlation of 1 - sigma with the nearest-mean error (the theory "
    "expects a positive one):",
    "",
    *(
      f"- delta = {deltas[i]:.1f}: "
      f"{correlation([s.curve.one_minus_sigma[i] for s in stacks])}"
      for i in shown
    ),
    "- mean of the curve: "
    f"{correlation([s.curve.one_minus_sigma.mean() for s in stacks])}",
  ]
  return "\n".join(lines) + "\n"


def draw(stacks: Sequence[Stack]) -> Figure:
  """Draws 1 - sigma over delta, a curve for each augmentation."""
  return figures.paths(
    {
      s.name: list(zip(s.curve.deltas, s.curve.one_minus_sigma, strict=True))
      for s in stacks
    },
    title="share of the worst class outside of its main part, 1 - sigma",
    x_label="diameter delta of a main part, distance of pixels",
  )


def write(workdir: pathlib.Path, stacks: Sequence[Stack]) -> str:
  """Writes concentration.md and concentration.svg; returns the text."""
  text = markdown(stacks)
  (workdir / "concentration.md").write_text(text, encoding="utf-8")
  svg = figures.as_svg(draw(stacks), alt="1 - sigma over delta")
  (workdir / "concentration.svg").write_text(svg, encoding="utf-8")
  return text
