"""Images a second and core; also read by an interpreter without jssl."""

import dataclasses
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rate:
  """What was made, and in which time.

  Attributes:
    images: that were made.
    seconds: by the clock on the wall.
    cpu_seconds: of all processors.
  """

  images: int
  seconds: float
  cpu_seconds: float

  @property
  def per_core(self) -> float:
    """Images a second of one processor."""
    return self.images / self.cpu_seconds


@dataclasses.dataclass(frozen=True)
class Subject:
  """A row of the table.

  Attributes:
    name: of it.
    run: makes all images once, and says how long it took.
  """

  name: str
  run: Callable[[], Rate]


def cpu_seconds() -> float:
  """Returns what this process and those below it have used of processors.

  Of those below, which are told in ticks, while they live.
  """
  parents, ticks = {}, {}
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      text = path.read_text()
    except OSError:  # It has ended.
      continue
    # The name, in brackets, may have anything in it.
    values = text.rpartition(")")[2].split()
    pid = int(path.parent.name)
    parents[pid] = int(values[1])
    ticks[pid] = int(values[11]) + int(values[12])
  own = {os.getpid()}
  while more := {p for p, of in parents.items() if of in own} - own:
    own |= more
  below = sum(ticks[pid] for pid in own - {os.getpid()})
  return time.process_time() + below / os.sysconf("SC_CLK_TCK")


def timed(take: Callable[[], int], images: int, ahead: int = 0) -> Rate:
  """Takes images until there are enough.

  Args:
    take: makes some, and returns how many.
    images: that are taken at least.
    ahead: calls before the clock starts.
  """
  for _ in range(ahead):
    take()
  cpu, wall, made = cpu_seconds(), time.perf_counter(), 0
  while made < images:
    made += take()
  return Rate(made, time.perf_counter() - wall, cpu_seconds() - cpu)


def table(
  subjects: list[Subject], rounds: int
) -> Iterator[tuple[dict[str, Any], list[Rate]]]:
  """Yields a row for each subject, and its rates.

  Args:
    subjects: what is measured, that which all are compared with first.
    rounds: of all of them, one after the other: what else the machine does
      then falls on all.
  """
  rates: dict[str, list[Rate]] = {subject.name: [] for subject in subjects}
  for done in range(rounds):
    for subject in subjects:
      rate = subject.run()
      rates[subject.name].append(rate)
      print(
        f"round {done + 1}: {subject.name}: {rate.per_core:.1f} a core",
        file=sys.stderr,
      )
  first = rates[subjects[0].name]
  for name, own in rates.items():
    ratios = [a.per_core / b.per_core for a, b in zip(own, first, strict=True)]
    yield (
      {
        "row": name,
        "images/s": statistics.median(r.images / r.seconds for r in own),
        "images/s and core": statistics.median(r.per_core for r in own),
        "of the decoder's": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
      },
      own,
    )
