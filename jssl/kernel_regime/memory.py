"""How much memory matrices of N x N take, and what fits.

All of the kernel regime is O(N^2) memory, in float64; what doesn't fit is
refused before it is allocated, with the N that would.
"""

import math
import os
import pathlib

_GIB = 2**30
# Of what is available; the rest is for the blocks and the libraries' workspace.
_SHARE = 0.8


def gram_gib(n: int, m: int | None = None) -> float:
  """Returns the GiB of a float64 matrix of [n, m], or of [n, n]."""
  return 8 * n * (n if m is None else m) / _GIB


def _of_machine() -> float:
  try:
    with open("/proc/meminfo") as file:
      lines = dict(line.split(":") for line in file)
    return int(lines["MemAvailable"].split()[0]) * 1024 / _GIB
  except (OSError, KeyError):
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return pages / 2 / _GIB


def _of_container() -> float:
  """Returns what a control group leaves; infinity without a limit."""
  group = pathlib.Path("/sys/fs/cgroup")
  try:
    limit = int((group / "memory.max").read_text())
    return (limit - int((group / "memory.current").read_text())) / _GIB
  except (OSError, ValueError):  # Not there, or "max".
    return math.inf


def available_gib() -> float:
  """Returns the GiB of main memory that a new program could use now."""
  return min(_of_machine(), _of_container())


def limit_gib(memory_limit_gib: float | None) -> float:
  """Returns the GiB that may be used.

  Args:
    memory_limit_gib: None takes 80% of what is available.

  Raises:
    ValueError: the limit isn't positive.
  """
  if memory_limit_gib is None:
    return _SHARE * available_gib()
  if not memory_limit_gib > 0:
    raise ValueError(
      f"kernels.memory_limit_gib={memory_limit_gib} must be positive"
    )
  return memory_limit_gib


def check_square(
  n: int, *, matrices: float, what: str, memory_limit_gib: float | None
) -> None:
  """Checks that so many matrices of [n, n] fit.

  Args:
    n: number of points.
    matrices: how many there are at the same time, besides those that the
      caller already holds.
    what: is computed, for the message.
    memory_limit_gib: that may be used; None takes 80% of what is available.

  Raises:
    ValueError: they don't; says how many points would.
  """
  limit = limit_gib(memory_limit_gib)
  needed = matrices * gram_gib(n)
  if needed > limit:
    fits = math.isqrt(int(limit * _GIB / (8 * matrices)))
    raise ValueError(
      f"{what} of N={n} points needs {needed:.3g} GiB ({matrices:.3g} matrices "
      f"of N x N in float64), and {limit:.3g} GiB may be used: N={fits} would "
      "fit; take fewer images or views, or raise kernels.memory_limit_gib"
    )


def check_block(
  n: int, m: int, *, what: str, memory_limit_gib: float | None
) -> None:
  """Checks that a matrix of [n, m] fits, as `check_square` does."""
  limit = limit_gib(memory_limit_gib)
  needed = gram_gib(n, m)
  if needed > limit:
    fits = int(limit * _GIB / (8 * m))
    raise ValueError(
      f"{what} of {n} x {m} points needs {needed:.3g} GiB in float64, and "
      f"{limit:.3g} GiB may be used: {fits} x {m} would fit; take fewer points "
      "at a time, or raise kernels.memory_limit_gib"
    )
