"""Where the time of a run goes, by the clock of its first process.

Steps are dispatched ahead of the device: what waits for them counts as step,
wherever it is, and input is what the loop waited for a batch, which a device
that is still busy doesn't feel. So the shares are those of the loop: input and
checkpoint bound from above what they cost.
"""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, Literal, get_args

import jax

from jssl import hosts

Kind = Literal["restore", "compile", "step", "input", "checkpoint"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NAME = "goodput.jsonl"
_CACHE = "/jax/compilation_cache/cache_"


class Goodput:
  """The clock of one life of a run; a run that is taken up has several.

  `workdir/goodput.jsonl` has a row for each, rewritten at each save and each
  logged step: steps, when it began (seconds since 1970), seconds by kind,
  `other` for what is none of them, seconds until the first step was done, and
  how many programs were found compiled, or not. So a life that is killed leaves
  its row, and what the next one has to do again shows.
  """

  def __init__(self, workdir: str | os.PathLike):
    """Starts the clock."""
    self._started, self._began = time.monotonic(), time.time()
    self._path = pathlib.Path(workdir) / NAME
    self._seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    self._until_first_step: float | None = None
    self._programs = {"hits": 0, "misses": 0}
    self._before: list[str] | None = None
    self._from_step = 0

  def _count(self, event: str, **_: Any) -> None:
    kind = event.removeprefix(_CACHE)
    if kind in self._programs:
      self._programs[kind] += 1

  @contextlib.contextmanager
  def listening(self) -> Iterator[None]:
    """Counts programs that are compiled, for as long as it lasts."""
    jax.monitoring.register_event_listener(self._count)
    try:
      yield
    finally:
      jax.monitoring.unregister_event_listener(self._count)

  @contextlib.contextmanager
  def on(self, kind: Kind) -> Iterator[None]:
    """Counts what happens inside."""
    started = time.monotonic()
    try:
      yield
    finally:
      self._seconds[kind] += time.monotonic() - started

  def begin(self, step: int) -> None:
    """Says from which step this life goes on."""
    self._from_step = step

  def first_step_done(self) -> None:
    """Says that the first step is done, not only dispatched."""
    self._until_first_step = time.monotonic() - self._started

  def row(self, step: int) -> dict[str, Any]:
    """Returns what is known after `step` steps of the run."""
    total = time.monotonic() - self._started
    return {
      "from_step": self._from_step,
      "to_step": step,
      "began": self._began,
      "seconds": total,
      **self._seconds,
      "other": total - sum(self._seconds.values()),
      "until_first_step": self._until_first_step,
      "programs_found": self._programs["hits"],
      "programs_compiled": self._programs["misses"],
    }

  def write(self, step: int) -> None:
    """Writes the row of this life beside those of earlier ones."""
    if not hosts.is_first():
      return
    if self._before is None:
      there = self._path.exists()
      self._before = self._path.read_text().splitlines() if there else []
    lines = [*self._before, json.dumps(self.row(step))]
    temporary = self._path.with_suffix(".tmp")
    temporary.write_text("".join(f"{line}\n" for line in lines))
    temporary.replace(self._path)
