"""What a workdir holds, as small records.

Training and probes may be writing while this reads: a line that isn't whole
yet is passed over.
"""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from jssl import checkpoint
from jssl.config.parse import parse
from jssl.config.schema import Config
from jssl.runtime.workdir import load_config

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Score:
  """One row of `probe.jsonl`: the accuracy of a kind of probe.

  Attributes:
    step: of the checkpoint.
    dataset: that was probed.
    features: "backbone", "random" or "pixels".
    probe: "linear", "mlp" or "knn".
    label_fraction: of train whose labels were seen.
    test_accuracy: mean over the seeds, in [0, 1].
    test_accuracy_std: its deviation.
  """

  step: int
  dataset: str
  features: str
  probe: str
  label_fraction: float
  test_accuracy: float
  test_accuracy_std: float


@dataclasses.dataclass(frozen=True)
class Spectrum:
  """The spectrum of a set's features, see `diagnostics.spectrum`.

  Attributes:
    step: of the checkpoint.
    dataset: that was looked at.
    features: "backbone", "random" or "pixels".
    singular_values: descending.
    collapse_auc: of these.
    deviation: of each dimension, descending; an older probe didn't write it.
  """

  step: int
  dataset: str
  features: str
  singular_values: list[float]
  collapse_auc: float
  deviation: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Unmeasured:
  """What a probe could not measure, and why."""

  step: int
  dataset: str
  features: str
  measure: str
  not_measured: str


@dataclasses.dataclass(frozen=True)
class Life:
  """Where the time of one life of a run went, see `jssl.runtime.goodput`.

  Attributes:
    from_step: step that it was taken up at.
    to_step: of the last row.
    began: seconds since 1970.
    seconds: of all of it.
    restore: seconds of these,
    compile: of these,
    step: of these,
    input: of these,
    checkpoint: of these,
    other: and of none of them.
    until_first_step: seconds until the first step was done; None before.
    programs_found: that were compiled before,
    programs_compiled: and that were not.
  """

  from_step: int
  to_step: int
  began: float
  seconds: float
  restore: float
  compile: float
  step: float
  input: float
  checkpoint: float
  other: float
  until_first_step: float | None
  programs_found: int
  programs_compiled: int


@dataclasses.dataclass(frozen=True)
class ProbeLife:
  """Where the time of one start of the probe went, see `jssl.probe.loop`.

  Attributes:
    seconds: of all of it.
    wait: seconds of these that it waited for a checkpoint,
    restore: read them,
    features: made or read features,
    compile: compiled for any of it,
    spectrum: and looked at spectra,
    probe: fitted classifiers,
    diagnostics: measured what features are like,
    other: and did none of it.
  """

  seconds: float
  wait: float
  restore: float
  features: float
  compile: float
  spectrum: float
  probe: float
  diagnostics: float
  other: float


@dataclasses.dataclass(frozen=True)
class Diagnostics:
  """What one kind of features is like, see `jssl.probe.diagnosis`.

  Attributes:
    step: of the checkpoint.
    dataset: that was looked at.
    features: "backbone" or "random".
    at: "backbone", or the name of the head whose outputs these are.
    values: numbers by name.
    curves: lists of numbers by name.
    not_measured: why a number is lacking, by name.
    images: that the views are of; None if an older probe didn't say,
    views: of each,
    num_classes: of these images.
  """

  step: int
  dataset: str
  features: str
  at: str
  values: dict[str, float]
  curves: dict[str, list[float]]
  not_measured: dict[str, str]
  images: int | None = None
  views: int | None = None
  num_classes: int | None = None


@dataclasses.dataclass(frozen=True)
class Concentration:
  """How augmentation concentrates classes, see `diagnostics`."""

  dataset: str
  deltas: list[float]
  one_minus_sigma: list[float]
  lower_bound: list[float]


@dataclasses.dataclass(frozen=True)
class Run:
  """A workdir.

  Attributes:
    workdir: where it is.
    config: of the run.
    metrics: columns of `metrics.jsonl` by name, `step` among them; NaN where
      a row lacks the name.
    scores: of all probes.
    spectra: of all probes.
    unmeasured: spectra and probes that could not be.
    diagnostics: of all probes with `--diagnostics`,
    concentrations: of the same.
    lives: of the run, each time that it was started.
    probe_lives: of its probe, each time that it was started.
    checkpoints: steps of the finished ones.
    best_step: the one that a probe chose, None before any did.
  """

  workdir: pathlib.Path
  config: Config
  metrics: Mapping[str, Float[np.ndarray, "n"]]
  scores: tuple[Score, ...]
  spectra: tuple[Spectrum, ...]
  unmeasured: tuple[Unmeasured, ...]
  diagnostics: tuple[Diagnostics, ...]
  concentrations: tuple[Concentration, ...]
  lives: tuple[Life, ...]
  probe_lives: tuple[ProbeLife, ...]
  checkpoints: tuple[int, ...]
  best_step: int | None

  @property
  def steps_done(self) -> int:
    """Steps that are logged or saved."""
    return int(max([0, *self.checkpoints, *self.metrics.get("step", ())]))

  @property
  def seconds(self) -> float:
    """Seconds of training until the last row, over all lives of the run."""
    return float(self.metrics["seconds"][-1]) if self.metrics else 0.0

  @property
  def idle_seconds(self) -> float:
    """Seconds between the lives of the run, in which nobody trained."""
    return sum(
      max(after.began - before.began - before.seconds, 0.0)
      for before, after in itertools.pairwise(self.lives)
    )

  @property
  def steps_again(self) -> int:
    """Steps that were lost with a life, and done again by the next."""
    return sum(
      max(before.to_step - after.from_step, 0)
      for before, after in itertools.pairwise(self.lives)
    )

  @property
  def datasets(self) -> list[str]:
    """The sets that were probed, the one pretrained on first."""
    own = self.config.data.name
    return sorted({s.dataset for s in self.scores}, key=lambda d: (d != own, d))

  def step(self, dataset: str) -> int | None:
    """Returns the step to show: the best one, else the last.

    Of those that were probed, or where none could be, have a spectrum.
    """
    steps: set[int] = set()
    for rows in (self.scores, self.spectra):
      steps = steps or {
        row.step
        for row in rows
        if row.dataset == dataset and row.features == "backbone"
      }
    return (
      self.best_step if self.best_step in steps else max(steps, default=None)
    )


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the rows of a JSON-lines file that are whole; [] without one."""
  rows = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      row = json.loads(line)
    except ValueError:
      continue
    if isinstance(row, dict):
      rows.append(row)
  return rows


def _records(cls: type[T], rows: Iterable[Mapping[str, Any]]) -> tuple[T, ...]:
  """Returns a record for each row that has all fields without a default."""
  fields = dataclasses.fields(cls)  # type: ignore[arg-type]
  needed = {
    field.name
    for field in fields
    if field.default is field.default_factory is dataclasses.MISSING
  }
  return tuple(
    cls(
      **{field.name: row[field.name] for field in fields if field.name in row}
    )
    for row in rows
    if row.keys() >= needed
  )


def _columns(rows: list[dict[str, Any]]) -> dict[str, Float[np.ndarray, "n"]]:
  rows = [row for row in rows if "step" in row]
  names = dict.fromkeys(name for row in rows for name in row)
  return {
    name: np.array([row.get(name, np.nan) for row in rows], float)
    for name in names
  }


def read(workdir: str | os.PathLike) -> Run:
  """Reads a workdir; what isn't there yet is empty.

  Raises:
    FileNotFoundError: it is not that of a run.
    ValueError: its config is damaged, or that of something else.
  """
  path = pathlib.Path(workdir)
  try:
    config = parse(load_config(path), Config)
  except (ValueError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{path / 'config.json'} is damaged or not the config of a run made by "
      f"`python -m jssl.train`: {error}"
    ) from error
  probed = _rows(path / "probe.jsonl")
  return Run(
    workdir=path,
    config=config,
    metrics=_columns(_rows(path / "metrics.jsonl")),
    scores=_records(Score, probed),
    spectra=_records(Spectrum, probed),
    unmeasured=tuple(
      row
      for row in _records(Unmeasured, probed)
      if isinstance(row.not_measured, str)
    ),
    diagnostics=_records(Diagnostics, probed),
    concentrations=_records(Concentration, probed),
    lives=_records(Life, _rows(path / "goodput.jsonl")),
    probe_lives=_records(ProbeLife, _rows(path / "probe_goodput.jsonl")),
    checkpoints=tuple(checkpoint.steps(path)),
    best_step=checkpoint.best_step(path),
  )
