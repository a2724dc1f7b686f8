"""Reads the files of a workdir, which running processes may be writing."""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from jssl import checkpoint
from jssl.config.build import has_teacher, read_config
from jssl.config.schema import Config
from jssl.probe.record_file import RecordFile
from jssl.probe.records import DenseRecord, ProbeRecord, Record, SpectrumRecord
from jssl.runtime import files
from jssl.runtime.paths import Path, as_path

R = TypeVar("R", bound=Record)
GoodputRow = Mapping[str, Any]

# Seconds of a goodput row by activity.
TRAINING_SECONDS = {
  "step": "steps",
  "input": "waiting for a batch",
  "checkpoint": "saving checkpoints",
  "compile": "tracing and compiling",
  "restore": "restoring or initialising",
  "other": "other",
}
PROBE_SECONDS = {
  "features": "features",
  "spectrum": "spectra",
  "probe": "classifiers",
  "diagnostics": "diagnostics",
  "compile": "tracing and compiling",
  "restore": "reading checkpoints",
  "wait": "waiting for a checkpoint",
  "other": "other",
}
_TRAINING_KEYS = (
  *("from_step", "to_step", "began", "seconds", *TRAINING_SECONDS),
  *("programs_found", "programs_compiled"),
)


@dataclasses.dataclass(frozen=True)
class Run:
  """Contents of a workdir.

  Metrics are columns by name, NaN where a row has no such number. The goodputs
  have one row per start of the training and of the probe. `best_step` is the
  one that a probe pinned as the best.
  """

  workdir: Path
  config: Config
  metrics: Mapping[str, Float[np.ndarray, "n"]]
  records: Sequence[Record]
  goodput: Sequence[GoodputRow]
  probe_goodput: Sequence[GoodputRow]
  checkpoints: Sequence[int]
  best_step: int | None

  def select(self, cls: type[R], **fields: Any) -> list[R]:
    """Returns the records of a type with these fields, by step."""
    return sorted(
      (
        record
        for record in self.records
        if isinstance(record, cls)
        and all(getattr(record, k) == v for k, v in fields.items())
      ),
      key=lambda record: record.step,
    )

  @property
  def steps_done(self) -> int:
    """Number of steps that are logged or saved."""
    return int(max([0, *self.checkpoints, *self.metrics.get("step", ())]))

  @property
  def seconds(self) -> float:
    """Seconds of training until the last row, over all starts."""
    return float(self.metrics.get("seconds", [0.0])[-1])

  @property
  def idle_seconds(self) -> float:
    """Seconds between the end of one start and the next start."""
    return sum(
      max(after["began"] - before["began"] - before["seconds"], 0.0)
      for before, after in itertools.pairwise(self.goodput)
    )

  @property
  def steps_repeated(self) -> int:
    """Number of steps that were lost by a restart and done again."""
    return sum(
      max(before["to_step"] - after["from_step"], 0)
      for before, after in itertools.pairwise(self.goodput)
    )

  @property
  def datasets(self) -> list[str]:
    """Names of the probed sets, that of the pretraining first."""
    own = self.config.data.name
    names = {
      record.dataset
      for cls in (ProbeRecord, DenseRecord)
      for record in self.select(cls)
    }
    return sorted(names, key=lambda name: (name != own, name))

  def step(self, dataset: str) -> int | None:
    """Returns the step to show: the best checkpoint if probed, or the last."""
    for cls in (ProbeRecord, DenseRecord, SpectrumRecord):
      steps = {
        record.step
        for record in self.select(cls, dataset=dataset, features="backbone")
      }
      if steps:
        return self.best_step if self.best_step in steps else max(steps)
    return None

  @property
  def has_teacher(self) -> bool:
    """True if the method averages the backbone."""
    return has_teacher(self.config)

  def backbone(self, dataset: str, step: int | None) -> str:
    """Returns which backbone the records of a step are of."""
    found = [
      record.backbone
      for record in self.records
      if (record.features, record.dataset, record.step)
      == ("backbone", dataset, step)
    ]
    return found[0] if found else "student"


def _number(value: Any) -> float:
  return value if isinstance(value, int | float) else np.nan


def read(workdir: str | os.PathLike) -> Run:
  """Reads a workdir. Missing files give empty fields.

  Raises:
    FileNotFoundError: if it is not the workdir of a run.
    ValueError: if the config or the records are damaged or of another version.
  """
  path = as_path(workdir)
  rows = files.read_json_lines(path / "metrics.jsonl", ["step", "loss"])
  return Run(
    workdir=path,
    config=read_config(path),
    metrics={
      name: np.array([_number(row.get(name)) for row in rows], float)
      for name in dict.fromkeys(name for row in rows for name in row)
    },
    records=RecordFile(path).read(),
    goodput=files.read_json_lines(path / "goodput.jsonl", _TRAINING_KEYS),
    probe_goodput=files.read_json_lines(
      path / "probe_goodput.jsonl", ("seconds", *PROBE_SECONDS)
    ),
    checkpoints=checkpoint.steps(path),
    best_step=checkpoint.best_step(path),
  )
