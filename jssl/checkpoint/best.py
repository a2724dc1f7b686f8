"""The best checkpoint of a run by `probe.select_by`, which is kept."""

import math
import os
from typing import Any

from absl import logging

from jssl.runtime import files
from jssl.runtime.paths import Path, as_path


def root(workdir: str | os.PathLike) -> Path:
  """Returns the folder of the checkpoints of a run."""
  return as_path(workdir).absolute() / "checkpoints"


def pin_best(
  workdir: str | os.PathLike, *, step: int, score: float, features: str
) -> None:
  """Pins a checkpoint as the best one if no pinned one has a higher score.

  `score` is that of `probe.select_by`; higher is better. It replaces a score of
  other `features`, without a comparison. A run in progress keeps the pinned
  checkpoint, whatever its keep policy.
  """
  best = _best(workdir)
  kept = best is not None and (root(workdir) / str(best["step"])).exists()
  comparable = best is not None and best.get("features") == features
  if best is None or not (kept and comparable) or score > best["score"]:
    path = as_path(workdir) / "best.json"
    files.write_json(path, {"step": step, "score": score, "features": features})


def best_step(workdir: str | os.PathLike) -> int | None:
  """Returns the step of the pinned checkpoint, or None."""
  best = _best(workdir)
  return None if best is None else best["step"]


def _best(workdir: str | os.PathLike) -> dict[str, Any] | None:
  path = as_path(workdir) / "best.json"
  best = files.read_json(path)
  if best is not None and all(
    isinstance(best.get(key), int | float) and math.isfinite(best[key])
    for key in ("step", "score")
  ):
    return best
  if path.exists():
    logging.warning("Ignored a damaged %s; the next probe writes it.", path)
  return None


class KeepBest:
  """Orbax policy: keeps the checkpoint of `pin_best`."""

  def __init__(self, workdir: Path):
    self._workdir = workdir

  def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
    """Returns True for the pinned checkpoint."""
    del context
    best = best_step(self._workdir)
    return [checkpoint.step == best for checkpoint in checkpoints]
