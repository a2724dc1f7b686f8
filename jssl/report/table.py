"""The table of a run: what its features are worth, and beside what."""

from collections.abc import Sequence
from typing import NamedTuple

from jssl.report.read import Run, Score

# Heading, kind of probe, share of the labels.
_COLUMNS = (
  ("linear", "linear", 1.0),
  ("MLP", "mlp", 1.0),
  ("kNN", "knn", 1.0),
  ("1 % labels", "linear", 0.01),
  ("10 % labels", "linear", 0.1),
)
HEADINGS = tuple(heading for heading, _, _ in _COLUMNS)


class Row(NamedTuple):
  """One kind of features.

  Attributes:
    name: what they are.
    scores: one for each of `HEADINGS`; None where no probe read them.
  """

  name: str
  scores: tuple[Score | None, ...]


def rows(run: Run, dataset: str) -> list[Row]:
  """Returns raw pixels, random backbone, and the pretrained one.

  Args:
    run: what was read.
    dataset: one of the probed sets.
  """
  step = run.step(dataset)

  def last(features: str, probe: str, fraction: float) -> Score | None:
    found = None
    for score in run.scores:
      key = (score.dataset, score.features, score.probe, score.label_fraction)
      # Baselines are the same at every step.
      if key == (dataset, features, probe, fraction) and (
        features != "backbone" or score.step == step
      ):
        found = score
    return found

  names = {
    "pixels": "raw pixels",
    "random": "random backbone",
    "backbone": "pretrained" if step is None else f"pretrained, step {step:,}",
  }
  return [
    Row(
      name,
      tuple(last(features, probe, share) for _, probe, share in _COLUMNS),
    )
    for features, name in names.items()
  ]


def cell(score: Score | None) -> str:
  """Returns a mean and its deviation in percent."""
  if score is None:
    return "-"
  mean, std = 100 * score.test_accuracy, 100 * score.test_accuracy_std
  return f"{mean:.1f} ± {std:.1f}"


def as_text(rows: Sequence[Row]) -> str:
  """Returns the table for a terminal."""
  lines = [("test accuracy, %", *HEADINGS)]
  lines += [(row.name, *map(cell, row.scores)) for row in rows]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return "\n".join(
    f"{name:<{widths[0]}}"
    + "".join(f"  {x:>{w}}" for x, w in zip(cells, widths[1:], strict=True))
    for name, *cells in lines
  )
