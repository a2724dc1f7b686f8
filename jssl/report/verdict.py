"""The verdict of a report: a sentence that says if a run is any good."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from jssl import checkpoint
from jssl.probe.records import PROBES, ProbeRecord
from jssl.report.diagnostics import collapse
from jssl.report.read import Run

# A difference of test accuracy counts above these, and above two standard
# deviations over probe seeds.
_MARGIN, _PROGRESS = 0.01, 0.005
# Share of the training, at its end, in which accuracy may still improve.
_END = 0.25
# Share of its largest value below which `feature_deviation` is a collapse.
_SHRUNK = 0.6
_BASELINES = {"random": "the random backbone", "pixels": "raw pixels"}

Kind = Literal[
  "good",
  "undertrained",
  "weak",
  "collapsed",
  "random",
  "diverged",
  "unprobed",
]
_LABELS: dict[Kind, str] = {
  "good": "Good",
  "undertrained": "Undertrained",
  "weak": "Weak",
  "collapsed": "Collapsed",
  "random": "No representation learned",
  "diverged": "Diverged",
  "unprobed": "Not evaluated",
}


class Verdict(NamedTuple):
  """The state of a run.

  Attributes:
    kind: "diverged" if training ended with a loss or parameter that is not
      finite; "collapsed" if the features hardly vary, or in one direction;
      "unprobed" if no accuracy of a checkpoint or of the random backbone was
      measured; "random" if the first is no better; "undertrained" if it still
      improves at the end; "weak" if it is below that of raw pixels; else
      "good".
    text: the verdict in words, with its numbers.
  """

  kind: Kind
  text: str

  @property
  def label(self) -> str:
    """The kind in words."""
    return _LABELS[self.kind]


def verdict(run: Run, dataset: str, step: int | None) -> Verdict:
  """Returns the verdict on a run by its test accuracy on a data set.

  Accuracy is that of the linear probe with all labels, or of the first other
  probe that was fitted.

  Args:
    run: contents of the workdir.
    dataset: the probed set.
    step: the checkpoint to evaluate; None if none was probed.
  """
  # A training that ends by such a value leaves its state there.
  broken = checkpoint.steps(run.workdir / "broken")
  if broken and broken[-1] >= run.steps_done:
    return Verdict(
      "diverged",
      "The loss or a parameter became NaN or infinite by step "
      f"{broken[-1]:,} of {run.config.train.steps:,}.",
    )
  records = {
    (r.probe, r.features): r
    for r in run.select(ProbeRecord, dataset=dataset, label_fraction=1)
    if not r.is_checkpoint or r.step == step
  }
  probe = next((name for name in PROBES if (name, "backbone") in records), None)
  shown = records.get((str(probe), "backbone"))
  baselines = {
    kind: records[probe, kind]
    for kind in _BASELINES
    if probe and (probe, kind) in records
  }
  over_time = run.select(
    ProbeRecord,
    dataset=dataset,
    label_fraction=1,
    probe=probe,
    features="backbone",
  )
  random = baselines.get("random")
  collapsed = _in_one_direction(run, dataset)
  # Features that beat an untrained backbone have not collapsed to a constant.
  if over_time and random and not _is_better(over_time[-1], random):
    collapsed = collapsed or _constant(run)
  if collapsed:
    return Verdict("collapsed", collapsed)
  if shown is None:
    return Verdict(
      "unprobed",
      "No accuracy was measured. To measure it: "
      f"jssl probe --workdir={run.workdir} (a set without labels needs "
      "--dataset=NAME, another one)",
    )
  if random is None:
    return Verdict(
      "unprobed",
      f"{100 * shown.test_accuracy:.1f}% accuracy ({shown.name} probe, step "
      f"{shown.step:,}), without that of the random backbone to compare with. "
      f"To measure it: jssl probe --workdir={run.workdir} "
      '\'--config.probe.baselines=("pixels", "random")\'',
    )
  against = _against(shown, baselines)
  improvement, improves = _improvement(over_time, shown)
  kind: Kind = "good"
  if not _is_better(shown, random):
    kind = "random"
  elif improves:
    kind = "undertrained"
  elif "pixels" in baselines and _is_better(baselines["pixels"], shown):
    kind = "weak"
  measured = "" if collapsed is None else "; not collapsed"
  return Verdict(
    kind,
    f"{against[0].upper()}{against[1:]} ({shown.name} probe, step "
    f"{shown.step:,}); {improvement}{measured}."
    + _worse_elsewhere(records, str(probe)),
  )


def _points(difference: float) -> str:
  return f"{100 * abs(difference):.1f} points"


def _gain(
  one: ProbeRecord, other: ProbeRecord, margin: float = _MARGIN
) -> tuple[float, bool]:
  """Returns the difference of test accuracy, and True if it counts."""
  gain = one.test_accuracy - other.test_accuracy
  noise = 2 * max(one.test_accuracy_std, other.test_accuracy_std)
  return gain, abs(gain) > max(margin, noise)


def _against(shown: ProbeRecord, baselines: Mapping[str, ProbeRecord]) -> str:
  """Compares with the baselines: "better than ... by 3.0 points and ..."."""
  groups: dict[str, list[str]] = {}
  for kind, baseline in baselines.items():
    gain, clear = _gain(shown, baseline)
    group = "no better than"
    if clear:
      group = "better than" if gain > 0 else "worse than"
    amount = f"by {_points(gain)}" if clear else f"({100 * gain:+.1f} points)"
    groups.setdefault(group, []).append(f"{_BASELINES[kind]} {amount}")
  return ", ".join(f"{k} {' and '.join(v)}" for k, v in groups.items())


def _worse_elsewhere(
  records: Mapping[tuple[str, str], ProbeRecord], shown: str
) -> str:
  """Names the baselines that are better by other probes."""
  found = []
  for (probe, kind), baseline in records.items():
    own = records.get((probe, "backbone"))
    if own and kind in _BASELINES and probe != shown:
      gain, clear = _gain(own, baseline)
      if clear and gain < 0:
        found.append(f"{_BASELINES[kind]} with {own.name} by {_points(gain)}")
  return f" Worse than {' and '.join(found)}." if found else ""


def _in_one_direction(run: Run, dataset: str) -> str | None:
  """Says that the features vary in one direction; None if not measured."""
  found = collapse(run, dataset)
  if found is None or not found.collapsed:
    return None if found is None else ""
  auc = [*found.aucs.values()][-1]
  return (
    "Nearly all variance of the features is in one direction (collapse AUC "
    f"{auc:.3f}, at most 1)."
  )


def _constant(run: Run) -> str:
  """Says that the features became alike during the training; "" if not.

  Untrained backbones differ too much for a limit of the deviation itself.
  """
  deviations = run.metrics.get("feature_deviation", np.zeros(0))
  deviations = deviations[np.isfinite(deviations)]
  if not len(deviations) or deviations[-1] >= _SHRUNK * deviations.max():
    return ""
  return (
    "The features vary less between images than before (deviation "
    f"{deviations[-1]:.2f}, once {deviations.max():.2f}), and are no better "
    "than those of the random backbone."
  )


def _is_better(one: ProbeRecord, other: ProbeRecord) -> bool:
  gain, clear = _gain(one, other)
  return clear and gain > 0


def _improvement(
  over_time: list[ProbeRecord], shown: ProbeRecord
) -> tuple[str, bool]:
  """Says if accuracy still improves; True if it does."""
  last = over_time[-1]
  gain, clear = _gain(last, shown, _PROGRESS)
  if clear and gain < 0:
    return f"worse at the last step {last.step:,}, by {_points(gain)}", False
  before = [r for r in over_time if r.step <= (1 - _END) * last.step]
  if not before:
    return "too few checkpoints are probed to say if it still improves", False
  gain, clear = _gain(last, before[-1], _PROGRESS)
  since = f"since step {before[-1].step:,}"
  if clear and gain > 0:
    return f"still improving, by {_points(gain)} {since}", True
  return f"no longer improving ({100 * gain:+.1f} points {since})", False
