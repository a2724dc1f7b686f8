"""Whether augmentations that concentrate classes give better class means.

Huang et al., ICLR 2023: for each run of a study, 1 - sigma(delta) of its
augmentation, beside the error of the nearest class mean and the accuracy of its
features. All are measured on the same images with the same deltas.

An augmented distance is the smallest over all views that an augmentation can
make, so one that includes another has no larger ones. Samples don't know that:
each is looked at with as many views of its own, and once more with the views of
all that it includes besides, which makes them nested.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from jssl import diagnostics, mesh
from jssl.augment import Augment, includes
from jssl.config.build import open_split
from jssl.data.source import InMemory, load
from jssl.diagnostics import ConcentrationCurve
from jssl.probe.records import DiagnosticsRecord, ProbeRecord
from jssl.probe.sample import balanced_rows, draw_sample, view_pixels
from jssl.report import charts
from jssl.report.diagnostics import BOUND_TERMS
from jssl.report.read import Run, read

_DELTAS = 24
# Of the deltas: where classes begin to be concentrated, half way, and late.
_SHOWN = (0.25, 0.5, 0.75)
_ERROR = "nearest_mean_error"


class Stack(NamedTuple):
  """An augmentation, and the runs that used it, one for each seed.

  Attributes:
    name: of the method.
    curve: 1 - sigma over delta, of as many views as all others have.
    nested: 1 - sigma at the same deltas, of these views and those of what it
      includes. It is nowhere above that of what it includes: what covers all
      pairs that are too far apart there covers the fewer ones here.
    included: other augmentations whose views it could make.
    values: of the backbone's diagnostics by name, means over the runs.
    accuracies: on test by kind of probe, of the same checkpoint, likewise.
  """

  name: str
  curve: ConcentrationCurve
  nested: Float[np.ndarray, "t"]
  included: tuple[str, ...]
  values: dict[str, float]
  accuracies: dict[str, float]


def _last(name: str, run: Run) -> tuple[dict[str, float], dict[str, float]]:
  """Returns diagnostics and accuracies of the last step that has both."""
  own = run.config.data.name
  values = {
    d.step: d
    for d in run.select(
      DiagnosticsRecord, dataset=own, features="backbone", at="backbone"
    )
  }
  accuracies: dict[int, dict[str, float]] = {}
  for s in run.select(
    ProbeRecord, dataset=own, features="backbone", label_fraction=1
  ):
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


def _augment(run: Run) -> Augment:
  return run.config.augment


def _pixels(
  run: Run, source: InMemory
) -> tuple[Float[np.ndarray, "n v p"], np.ndarray]:
  """Returns views as the run's diagnostics saw them, and their labels."""
  config = run.config
  settings = config.probe
  sample = draw_sample(
    source,
    source.labels,
    balanced_rows(source.labels, images=settings.diagnostic_images),
    _augment(run),
    num_views=settings.diagnostic_views,
    seed=config.seed,
    mesh=mesh.make_mesh(1, 1),
  )
  return view_pixels(sample, batch_size=settings.batch_size), sample.labels


def _looked_at(run: Run) -> dict[str, Any]:
  """Returns which images and how many views of each a run's views are of."""
  data = run.config.data
  settings = run.config.probe
  return {
    **{
      f"data.{key}": getattr(data, key)
      for key in ("name", "split", "data_dir", "image_size_px")
    },
    **{
      f"probe.{key}": getattr(settings, key)
      for key in ("diagnostic_images", "diagnostic_views")
    },
  }


def _views(
  runs: Mapping[str, Run],
) -> tuple[dict[str, Float[np.ndarray, "n v p"]], Int[np.ndarray, "n"]]:
  """Returns views of the same images by each run's augmentation, and labels.

  Raises:
    ValueError: the runs are of different images, or of more or fewer views.
  """
  source: InMemory | None = None
  there: tuple[str, dict] | None = None
  found: dict[str, Float[np.ndarray, "n v p"]] = {}
  labels = np.zeros(0, int)
  for name, run in runs.items():
    own = _looked_at(run)
    if source is None or there is None:
      data = run.config.data
      source, there = load(open_split(data, data.split)), (name, own)
    elif own != there[1]:
      raise ValueError(
        f"{name} looks at other images or views than {there[0]}, which can't "
        f"be compared: {own} is not {there[1]}"
      )
    found[name], labels = _pixels(run, source)
  return found, labels


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
  first = {name: runs[0] for name, runs in methods.items()}
  pixels, labels = _views(first)
  # From what all of them have within classes.
  found = np.concatenate(
    [
      diagnostics.concentration_curve(own, labels).deltas
      for own in pixels.values()
    ]
  )
  deltas = np.quantile(found, np.linspace(0.05, 0.95, _DELTAS))

  def curve(names: Sequence[str]) -> ConcentrationCurve:
    views = np.concatenate([pixels[name] for name in names], axis=1)
    return diagnostics.concentration_curve(views, labels, deltas=deltas)

  own = {name: curve([name]) for name in first}
  stacks = []
  for name, run in first.items():
    included = tuple(
      other
      for other in first
      if other != name and includes(_augment(run), _augment(first[other]))
    )
    together = [curve([name, *included])] if included else []
    known = [own[one] for one in (name, *included)] + together
    nested = np.min([one.per_class for one in known], axis=0).max(axis=0)
    stacks.append(
      Stack(
        name,
        own[name],
        nested,
        included,
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
  probes = [
    p for p in ("linear", "knn") if all(p in s.accuracies for s in stacks)
  ]
  at = " | ".join(f"1 - sigma({deltas[i]:.1f})" for i in shown)
  names = "".join(f" {probe}, % |" for probe in probes)
  stacks = sorted(stacks, key=lambda s: s.values[_ERROR])
  lines = [
    f"| augmentation | {at} | mean of the curve | mean, nested views "
    f"| nearest-mean error, % | alignment |{names}",
    "|---" + "|---:" * (len(shown) + 4 + len(probes)) + "|",
  ]
  for s in stacks:
    outside = [s.curve.one_minus_sigma[i] for i in shown]
    cells = [
      *(f"{value:.3f}" for value in outside),
      f"{s.curve.one_minus_sigma.mean():.3f}",
      f"{s.nested.mean():.3f}",
      f"{100 * s.values[_ERROR]:.1f}",
      f"{s.values['alignment']:.3f}" if "alignment" in s.values else "-",
      *(f"{100 * s.accuracies[p]:.1f}" for p in probes),
    ]
    lines.append(f"| {s.name} | {' | '.join(cells)} |")

  errors = [s.values[_ERROR] for s in stacks]

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
    "- mean of the curve, nested views: "
    f"{correlation([s.nested.mean() for s in stacks])}",
    "",
    "Nested views: of an augmentation and of all others here whose views it "
    "could make:",
    "",
    *(
      f"- {s.name} includes {', '.join(s.included)}"
      for s in stacks
      if s.included
    ),
    *_terms(stacks),
  ]
  return "\n".join(lines) + "\n"


def _terms(stacks: Sequence[Stack]) -> list[str]:
  """Returns the table of what the bound is made of; empty without one."""
  columns = [
    *((heading, f"bound/{name}") for heading, name in BOUND_TERMS),
    ("share whose condition holds", "bound/holds"),
    ("InfoNCE L1", "info_nce/alignment"),
    ("L2", "info_nce/divergence"),
  ]
  known = [(h, n) for h, n in columns if any(n in s.values for s in stacks)]
  if not known:
    return []
  rows = [
    " | ".join(f"{s.values[n]:.2f}" if n in s.values else "-" for _, n in known)
    for s in stacks
  ]
  return [
    "",
    "Terms of the bound where rho is least, means over seeds:",
    "",
    f"| augmentation | {' | '.join(h for h, _ in known)} |",
    "|---" + "|---:" * len(known) + "|",
    *(f"| {s.name} | {row} |" for s, row in zip(stacks, rows, strict=True)),
  ]


def draw(stacks: Sequence[Stack]) -> Figure:
  """Draws 1 - sigma over delta, a curve for each augmentation."""
  return charts.paths(
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
  svg = charts.as_svg(draw(stacks), alt="1 - sigma over delta")
  (workdir / "concentration.svg").write_text(svg, encoding="utf-8")
  return text
