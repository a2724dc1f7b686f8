"""Where the time of a process goes, in a row of a file beside a run's others.

What JAX compiles is told apart from what it is compiled for, wherever it is.
"""

import contextlib
import json
import os
import pathlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
from absl import logging

from jssl.runtime import distributed, files

T = TypeVar("T")

_CACHE = "/jax/compilation_cache/cache_"
# Tracing, lowering, and the compiler or what it has left in a cache.
_COMPILE = "/jax/core/compile/"


class Clock:
  """The clock of one life of a process; what is started again has several.

  Its file has a row for each, rewritten by `write`: when it began (seconds
  since 1970), seconds in all, seconds by kind, `compile` for what JAX traced
  and compiled in this thread, `other` for what is none of them, and how many
  programs were found compiled, or not. So a life that is killed leaves a row.
  """

  def __init__(self, path: str | os.PathLike, kinds: Iterable[str]):
    """Starts the clock.

    Args:
      path: of the file.
      kinds: of time, see `on`.
    """
    self._started, self._began = time.monotonic(), time.time()
    self._path = pathlib.Path(path)
    self._seconds = dict.fromkeys(kinds, 0.0) | {"compile": 0.0}
    self._programs = {"hits": 0, "misses": 0}
    self._compiled: list[tuple[float, float]] = []
    self._thread = threading.get_ident()
    self._before: list[str] | None = None

  def _count(self, event: str, **_: Any) -> None:
    kind = event.removeprefix(_CACHE)
    if kind in self._programs:
      self._programs[kind] += 1

  def _count_seconds(self, event: str, duration_secs: float, **_: Any) -> None:
    if not event.startswith(_COMPILE) or threading.get_ident() != self._thread:
      return
    end = time.monotonic()
    # A program may be traced while another is: the outer has the inner in it.
    begin = end - duration_secs
    while self._compiled and self._compiled[-1][1] > begin:
      begin = min(begin, self._compiled[-1][0])
      inner_begin, inner_end = self._compiled.pop()
      self._seconds["compile"] -= inner_end - inner_begin
    self._compiled.append((begin, end))
    self._seconds["compile"] += end - begin

  @contextlib.contextmanager
  def running(self) -> Iterator[None]:
    """Hears what is compiled, and writes the last row, however it ends."""
    try:
      with self.listening():
        yield
    finally:
      self.write()

  @contextlib.contextmanager
  def listening(self) -> Iterator[None]:
    """Hears what is compiled, for as long as it lasts."""
    jax.monitoring.register_event_listener(self._count)
    jax.monitoring.register_event_duration_secs_listener(self._count_seconds)
    try:
      yield
    finally:
      jax.monitoring.unregister_event_listener(self._count)
      jax.monitoring.unregister_event_duration_listener(self._count_seconds)

  @contextlib.contextmanager
  def on(self, kind: str) -> Iterator[None]:
    """Counts what happens inside, less what is compiled there."""
    started, compiled = time.monotonic(), self._seconds["compile"]
    try:
      yield
    finally:
      inside = self._seconds["compile"] - compiled
      self._seconds[kind] += time.monotonic() - started - inside

  def each(self, kind: str, things: Iterable[T]) -> Iterator[T]:
    """Yields them, and counts what it takes to come by each."""
    iterator = iter(things)
    while True:
      with self.on(kind):
        try:
          thing = next(iterator)
        except StopIteration:
          return
      yield thing

  def seconds(self) -> float:
    """Returns those since it was started."""
    return time.monotonic() - self._started

  def row(self) -> dict[str, Any]:
    """Returns what is known now."""
    total = self.seconds()
    return {
      "began": self._began,
      "seconds": total,
      **self._seconds,
      "other": total - sum(self._seconds.values()),
      "programs_found": self._programs["hits"],
      "programs_compiled": self._programs["misses"],
    }

  def _write(self) -> None:
    if not distributed.is_first():
      return
    if self._before is None:
      there = self._path.exists()
      self._before = self._path.read_text().splitlines() if there else []
    lines = [*self._before, json.dumps(self.row())]
    files.replace(self._path, "".join(f"{line}\n" for line in lines))

  def write(self) -> None:
    """Writes the row of this life beside those of earlier ones.

    Where that fails it is told, and the next has all that this one had.
    """
    try:
      self._write()
    except OSError as error:
      logging.error(
        "%s: %s; it is tried again with the next row",
        self._path,
        error.strerror,
      )
