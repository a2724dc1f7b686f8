"""Memory of N x N float64 matrices, checked before they are allocated."""

import math
import os
import pathlib

_GIB = 2**30
# Share of the available memory; blocks and libraries need the rest.
_SHARE = 0.8


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


def limit_gib(memory_limit_gib: float | None) -> float:
  """Returns the positive limit in GiB; None is 80% of the available memory."""
  if memory_limit_gib is None:
    return _SHARE * available_gib()
  if not memory_limit_gib > 0:
    raise ValueError(f"memory_limit_gib={memory_limit_gib} must be positive.")
  return memory_limit_gib


def check_memory(
  what: str,
  memory_limit_gib: float | None,
  n: int,
  m: int | None = None,
  *,
  matrices: float = 1.0,
) -> None:
  """Raises ValueError if matrices [n, m], or [n, n], exceed the memory limit.

  `matrices` counts those that exist at the same time, besides the caller's.
  """
  limit = limit_gib(memory_limit_gib)
  needed = matrices * gram_gib(n, m)
  if needed <= limit:
    return
  if m is None:
    size = f"N={n} points"
    fits = f"N={math.isqrt(int(limit * _GIB / (8 * matrices)))}"
  else:
    size, fits = f"{n} x {m} points", f"{int(limit * _GIB / (8 * m))} x {m}"
  raise ValueError(
    f"{what} of {size} needs {needed:.3g} GiB in float64, but the limit is "
    f"{limit:.3g} GiB. {fits} would fit; use fewer points, or raise "
    "memory_limit_gib."
  )
