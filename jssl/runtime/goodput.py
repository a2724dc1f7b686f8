"""Goodput: how much wall-clock time a process spends on which kind of work.

JAX dispatches steps ahead of the device, so the times are those of the host:
"step" includes every wait for the device, and "input" and "checkpoint" are
upper bounds of what they cost.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
from absl import logging

from jssl.runtime import distributed, files
from jssl.runtime.paths import as_path

T = TypeVar("T")

_CACHE = "/jax/compilation_cache/cache_"
# Tracing, lowering, and compilation or a read from the persistent cache.
_COMPILE = "/jax/core/compile/"


class Clock:
  """Counts the seconds that one process spends on each kind of work.

  Every start of a process has one row in a JSON-lines file. `write` rewrites
  the row, so a process that is killed leaves one too. Its keys:

    began: time of the start, in seconds since 1970.
    seconds: in total.
    (kind): one key for each kind of work.
    compile: tracing and compilation in this thread, excluded from the kinds.
    other: the remaining seconds.
    programs_found, programs_compiled: hits and misses of JAX's persistent
      compilation cache.
    (value): values of `record`.
  """

  def __init__(self, path: str | os.PathLike, kinds: Iterable[str]):
    """Starts the clock.

    Args:
      path: path of the JSON-lines file.
      kinds: names of the kinds of work, see `on`.
    """
    self._started, self._began = time.monotonic(), time.time()
    self._path, self._next_write = as_path(path), 0.0
    self._seconds = dict.fromkeys(kinds, 0.0) | {"compile": 0.0}
    self._values: dict[str, Any] = {}
    self._programs = {"hits": 0, "misses": 0}
    self._compiled: list[tuple[float, float]] = []
    self._thread = threading.get_ident()
    self._earlier_rows: list[dict[str, Any]] | None = None

  def _count(self, event: str, **_: Any) -> None:
    kind = event.removeprefix(_CACHE)
    if kind in self._programs:
      self._programs[kind] += 1

  def _count_seconds(self, event: str, duration_secs: float, **_: Any) -> None:
    if not event.startswith(_COMPILE) or threading.get_ident() != self._thread:
      return
    end = time.monotonic()
    begin = end - duration_secs
    # Programs are traced inside of others: the outer interval replaces the
    # intervals that it contains.
    while self._compiled and self._compiled[-1][1] > begin:
      begin = min(begin, self._compiled[-1][0])
      inner_begin, inner_end = self._compiled.pop()
      self._seconds["compile"] -= inner_end - inner_begin
    self._compiled.append((begin, end))
    self._seconds["compile"] += end - begin

  @contextlib.contextmanager
  def running(self) -> Iterator[None]:
    """Counts compilation inside, and writes the row at the end."""
    try:
      with self.listening():
        yield
    finally:
      self._next_write = 0.0
      self.write()

  @contextlib.contextmanager
  def listening(self) -> Iterator[None]:
    """Counts compilation inside."""
    jax.monitoring.register_event_listener(self._count)
    jax.monitoring.register_event_duration_secs_listener(self._count_seconds)
    try:
      yield
    finally:
      jax.monitoring.unregister_event_listener(self._count)
      jax.monitoring.unregister_event_duration_listener(self._count_seconds)

  @contextlib.contextmanager
  def on(self, kind: str) -> Iterator[None]:
    """Adds the time inside, without compilation, to `kind`."""
    started, compiled = time.monotonic(), self._seconds["compile"]
    try:
      yield
    finally:
      inside = self._seconds["compile"] - compiled
      self._seconds[kind] += time.monotonic() - started - inside

  def each(self, kind: str, items: Iterable[T]) -> Iterator[T]:
    """Yields `items`; the time to produce each one is added to `kind`."""
    iterator = iter(items)
    while True:
      with self.on(kind):
        try:
          item = next(iterator)
        except StopIteration:
          return
      yield item

  def record(self, **values: Any) -> None:
    """Sets further keys of the row."""
    self._values.update(values)

  def seconds(self) -> float:
    """Returns the seconds since the start."""
    return time.monotonic() - self._started

  def row(self) -> dict[str, Any]:
    """Returns the row as of now."""
    total = self.seconds()
    return {
      "began": self._began,
      "seconds": total,
      **self._seconds,
      "other": total - sum(self._seconds.values()),
      "programs_found": self._programs["hits"],
      "programs_compiled": self._programs["misses"],
      **self._values,
    }

  def write(self) -> None:
    """Writes the row, on the first process; logs a failure and returns.

    In a store, the row is at most half a minute old until the end.
    """
    if not distributed.is_first() or time.monotonic() < self._next_write:
      return
    self._next_write = files.next_write(self._path)
    if self._earlier_rows is None:
      try:
        self._earlier_rows = files.read_json_lines(self._path)
      except OSError as error:
        logging.error("Could not read %s: %s.", self._path, error.strerror)
        return
    files.write_json_lines(self._path, [*self._earlier_rows, self.row()])
