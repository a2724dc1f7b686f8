"""The `concentration` study: compares the augmentations of several runs.

Huang et al., ICLR 2023, bound the error of the nearest class mean by the
concentration of the classes, 1 - sigma(delta), with the minimum of distances
over all views. An augmentation that includes another thus has no larger ones.
Samples do not respect this, so each augmentation is evaluated twice: with an
equal number of its own views, and nested, with those that it includes.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from scipy import stats

from jssl import diagnostics, mesh
from jssl.augment import includes
from jssl.config.build import open_split
from jssl.data.source import load
from jssl.diagnostics import ConcentrationCurve
from jssl.probe.records import DiagnosticsRecord, ProbeRecord
from jssl.probe.sample import balanced_rows, draw_sample, view_pixels
from jssl.report import charts
from jssl.report import write as report
from jssl.report.diagnostics import BOUND_TERMS
from jssl.report.read import Run, read
from jssl.report.tables import markdown_table

_DELTAS = 24
# Quantiles of the deltas that the table shows.
_SHOWN = (0.25, 0.5, 0.75)
_ERROR = "nearest_mean_error"


class Augmentation(NamedTuple):
  """An augmentation, and the runs that used it, one per seed.

  `curve` is 1 - sigma over delta, of its own views; `nested` is the same with
  the views of the `included` augmentations. It is at most that of an included
  one: a vertex cover of the pairs that are too far apart for the latter covers
  the fewer pairs of the former. The others are means over the runs.
  """

  name: str
  curve: ConcentrationCurve
  nested: Float[np.ndarray, "t"]
  included: tuple[str, ...]
  values: dict[str, float]
  accuracies: dict[str, float]


def _last_measured(
  name: str, run: Run
) -> tuple[dict[str, float], dict[str, float]]:
  """Diagnostics and accuracies of the last step that has both."""
  key = {"dataset": run.config.data.name, "features": "backbone"}
  records = {
    record.step: record
    for record in run.select(DiagnosticsRecord, at="backbone", **key)
  }
  if not records:
    raise ValueError(
      f"{name} was probed without --diagnostics; run `python -m jssl.probe "
      f"--workdir={run.workdir} --diagnostics`."
    )
  accuracies: dict[int, dict[str, float]] = {}
  for record in run.select(ProbeRecord, label_fraction=1, **key):
    accuracies.setdefault(record.step, {})[record.probe] = record.test_accuracy
  reasons = {
    step: record.not_measured.get(_ERROR, f"no {_ERROR} was measured")
    for step, record in records.items()
    if _ERROR not in record.values
  }
  both = records.keys() & accuracies.keys() - reasons.keys()
  if not both:
    raise ValueError(
      f"{name} has no step with both {_ERROR} and an accuracy: diagnostics at "
      f"{sorted(records)}, accuracies at {sorted(accuracies)}"
      + "".join(f"; step {step}: {why}" for step, why in reasons.items())
    )
  return records[max(both)].values, accuracies[max(both)]


def _means(runs: Sequence[dict[str, float]]) -> dict[str, float]:
  """Means of the numbers that all runs have."""
  names = [name for name in runs[0] if all(name in run for run in runs)]
  return {name: float(np.mean([run[name] for run in runs])) for name in names}


def _sample_settings(run: Run) -> dict[str, Any]:
  """Settings that determine the images and the number of views."""
  data, probe = vars(run.config.data), vars(run.config.probe)
  return {
    **{k: data[k] for k in ("name", "split", "data_dir", "image_size_px")},
    **{k: probe[k] for k in ("diagnostic_images", "diagnostic_views")},
  }


def _views(
  runs: Mapping[str, Run],
) -> tuple[dict[str, Float[np.ndarray, "n v p"]], Int[np.ndarray, "n"]]:
  """Pixels of views of the same images by each augmentation, and labels."""
  first, *_ = runs
  expected = _sample_settings(runs[first])
  data = runs[first].config.data
  source = load(open_split(data, data.split))
  pixels = {}
  labels = np.zeros(0, int)
  for name, run in runs.items():
    settings, config = _sample_settings(run), run.config
    if settings != expected:
      raise ValueError(
        f"{name} and {first} use different images or views and cannot be "
        f"compared: {settings} and {expected}"
      )
    sample = draw_sample(
      source,
      source.labels,
      balanced_rows(source.labels, images=config.probe.diagnostic_images),
      config.augment,
      num_views=config.probe.diagnostic_views,
      seed=config.seed,
      mesh=mesh.make_mesh(1, 1),
    )
    pixels[name] = view_pixels(sample, batch_size=config.probe.batch_size)
    labels = sample.labels
  return pixels, labels


def collect(workdir: pathlib.Path) -> list[Augmentation]:
  """Returns the augmentations of a study.

  Raises:
    ValueError: if there are none, a run has no step with diagnostics and
      accuracies, or runs use different images.
  """
  methods: dict[str, list[Run]] = {}
  for path in sorted(workdir.glob("*/seed_*/config.json")):
    methods.setdefault(path.parent.parent.name, []).append(read(path.parent))
  if not methods:
    raise ValueError(
      f"{workdir} has no runs; --workdir must be that of `python -m jssl.study "
      "methods --diagnostics`."
    )
  measured = {
    name: [_last_measured(name, run) for run in runs]
    for name, runs in methods.items()
  }
  augments = {name: runs[0].config.augment for name, runs in methods.items()}
  pixels, labels = _views({name: runs[0] for name, runs in methods.items()})
  # Common deltas, from the distances within classes of all augmentations.
  distances = [
    diagnostics.concentration_curve(own, labels).deltas
    for own in pixels.values()
  ]
  quantiles = np.linspace(0.05, 0.95, _DELTAS)
  deltas = np.quantile(np.concatenate(distances), quantiles)

  def curve(names: Sequence[str]) -> ConcentrationCurve:
    views = np.concatenate([pixels[name] for name in names], axis=1)
    return diagnostics.concentration_curve(views, labels, deltas=deltas)

  curves = {name: curve([name]) for name in methods}
  augmentations = []
  for name in methods:
    included = tuple(
      other
      for other in methods
      if other != name and includes(augments[name], augments[other])
    )
    bounds = [curves[one] for one in (name, *included)]
    if included:
      bounds.append(curve([name, *included]))
    # The least upper bound of each class holds.
    nested = np.min([one.per_class for one in bounds], axis=0).max(axis=0)
    values, accuracies = zip(*measured[name], strict=True)
    augmentations.append(
      Augmentation(
        name, curves[name], nested, included, _means(values), _means(accuracies)
      )
    )
  return augmentations


def _table(augmentations: Sequence[Augmentation], shown: Sequence[int]) -> str:
  deltas = augmentations[0].curve.deltas
  probes = [
    probe
    for probe in ("linear", "knn")
    if all(probe in a.accuracies for a in augmentations)
  ]
  headings = [
    "augmentation",
    *(f"1 - sigma({deltas[i]:.1f})" for i in shown),
    *("mean of the curve", "mean, nested views", "nearest-mean error, %"),
    *("alignment", *(f"{probe}, %" for probe in probes)),
  ]
  rows = [
    [
      a.name,
      *(f"{a.curve.one_minus_sigma[i]:.3f}" for i in shown),
      f"{a.curve.one_minus_sigma.mean():.3f}",
      f"{a.nested.mean():.3f}",
      f"{100 * a.values[_ERROR]:.1f}",
      f"{a.values['alignment']:.3f}" if "alignment" in a.values else "-",
      *(f"{100 * a.accuracies[probe]:.1f}" for probe in probes),
    ]
    for a in augmentations
  ]
  return markdown_table(headings, rows)


def _bound_table(augmentations: Sequence[Augmentation]) -> str:
  """Table of the terms of the bound; empty without any."""
  terms = [
    *((heading, f"bound/{name}") for heading, name in BOUND_TERMS),
    ("share whose condition holds", "bound/holds"),
    ("InfoNCE L1", "info_nce/alignment"),
    ("L2", "info_nce/divergence"),
  ]
  known = [
    (heading, name)
    for heading, name in terms
    if any(name in a.values for a in augmentations)
  ]
  if not known:
    return ""
  rows = [
    [
      a.name,
      *(f"{a.values[n]:.2f}" if n in a.values else "-" for _, n in known),
    ]
    for a in augmentations
  ]
  return "Terms of the bound at the least rho, means over seeds:\n\n" + (
    markdown_table(["augmentation", *(heading for heading, _ in known)], rows)
  )


def markdown(augmentations: Sequence[Augmentation]) -> str:
  """Returns the tables, and the rank correlations with the measured error."""
  augmentations = sorted(augmentations, key=lambda a: a.values[_ERROR])
  errors = [a.values[_ERROR] for a in augmentations]
  deltas = augmentations[0].curve.deltas
  shown = [round(quantile * (len(deltas) - 1)) for quantile in _SHOWN]
  curves = [a.curve.one_minus_sigma for a in augmentations]

  def correlation(name: str, values: Sequence[float]) -> str:
    if len({*values}) < 2 or len({*errors}) < 2:
      return f"- {name}: not defined, all are equal\n"
    rank = stats.spearmanr(values, errors)
    # Two ranks always agree or disagree.
    p_value = f", p = {rank.pvalue:.2g}" if len(values) > 2 else ""
    return f"- {name}: {rank.statistic:+.2f}{p_value}\n"

  compared = [
    *((f"delta = {deltas[i]:.1f}", [c[i] for c in curves]) for i in shown),
    ("mean of the curve", [c.mean() for c in curves]),
    (
      "mean of the curve, nested views",
      [a.nested.mean() for a in augmentations],
    ),
  ]
  parts = [
    _table(augmentations, shown),
    "Rank correlation of 1 - sigma with the nearest-mean error (positive in "
    "theory), and p of a two-sided test over augmentations:\n",
    "".join(correlation(*item) for item in compared),
  ]
  included = [
    f"- {a.name} includes {', '.join(a.included)}\n"
    for a in augmentations
    if a.included
  ]
  if included:
    parts += ["Nested views include those of others:\n", "".join(included)]
  if bound := _bound_table(augmentations):
    parts.append(bound)
  return "\n".join(parts)


def draw(augmentations: Sequence[Augmentation]) -> Figure:
  """Draws 1 - sigma over delta, one curve per augmentation."""
  return charts.paths(
    {
      a.name: list(zip(a.curve.deltas, a.curve.one_minus_sigma, strict=True))
      for a in augmentations
    },
    title="share of the worst class outside its main part, 1 - sigma",
    x_label="diameter delta of the main part, distance of pixels",
  )


def write(workdir: pathlib.Path, augmentations: Sequence[Augmentation]) -> str:
  """Writes concentration.md and concentration.svg; returns the text."""
  text = markdown(augmentations)
  svg = charts.as_svg(draw(augmentations), alt="1 - sigma over delta")
  report.write(workdir, "concentration", text, figures={"concentration": svg})
  return text
