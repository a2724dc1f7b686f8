"""Memory of N x N float64 matrices, checked before they are allocated."""

import contextlib
import contextvars
import os
import pathlib
from collections.abc import Iterator

_GIB = 2**30
# Share of the available memory; blocks and libraries need the rest.
_SHARE = 0.8
_LIMIT_GIB = contextvars.ContextVar[float | None]("limit_gib", default=None)


def gram_gib(n: int, m: int | None = None) -> float:
  """Size in GiB of a float64 matrix [n, m], or [n, n] without `m`."""
  return 8 * n * (n if m is None else m) / _GIB


def available_gib() -> float:
  """Main memory in GiB that is free for this process now."""
  try:
    with open("/proc/meminfo") as file:
      lines = dict(line.split(":") for line in file)
    machine = int(lines["MemAvailable"].split()[0]) * 1024
  except (OSError, KeyError):
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
  group = pathlib.Path("/sys/fs/cgroup")
  try:
    limit = int((group / "memory.max").read_text())
    used = int((group / "memory.current").read_text())
  except (OSError, ValueError):  # No control group, or no limit ("max").
    return machine / _GIB
  return min(machine, limit - used) / _GIB


@contextlib.contextmanager
def memory_limit(gib: float | None) -> Iterator[None]:
  """Limits the matrices of each call in this context to `gib` GiB.

  None, as without this context, is 80% of the available memory.
  """
  if gib is not None and not gib > 0:
    raise ValueError(f"memory_limit({gib}) must be positive.")
  token = _LIMIT_GIB.set(gib)
  try:
    yield
  finally:
    _LIMIT_GIB.reset(token)


def limit_gib() -> float:
  """Returns the limit that holds now."""
  limit = _LIMIT_GIB.get()
  return _SHARE * available_gib() if limit is None else limit


def check_memory(what: str, needed_gib: float) -> None:
  """Raises ValueError if matrices of a size in GiB exceed the memory limit."""
  if needed_gib > (limit := limit_gib()):
    raise ValueError(
      f"{what} needs {needed_gib:.3g} GiB in float64, but the limit is "
      f"{limit:.3g} GiB. Use fewer points, or set a higher memory limit."
    )
