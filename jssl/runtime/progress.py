"""Progress lines of long operations."""

import datetime
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from jssl.runtime import distributed

T = TypeVar("T")

_SECONDS = 10.0


def progress(name: str, batches: Iterable[T], total: int) -> Iterator[T]:
  """Yields batches, and logs the share of them that is done.

  Logs at most every ten seconds, and never in short operations.

  Args:
    name: prefix of each log line.
    batches: items to yield.
    total: number of items.
  """
  started = logged = time.monotonic()
  for done, batch in enumerate(batches):
    now = time.monotonic()
    if now >= logged + _SECONDS:
      remaining = (now - started) * (total - done) / max(done, 1)
      left = datetime.timedelta(seconds=round(remaining))
      distributed.log_on_first(f"{name}: {done / total:.0%}  ETA {left}")
      logged = now
    yield batch
