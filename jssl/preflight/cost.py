"""Memory and collectives of a compiled function."""

from collections import Counter
from typing import Any

from jssl.preflight.hlo import collectives as collectives_lib
from jssl.preflight.hlo import text


def working_bytes(compiled: Any) -> int:
  """Returns the peak memory per device, excluding arguments and outputs."""
  memory = compiled.memory_analysis()
  inputs, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
  peak = memory.peak_memory_in_bytes - inputs - outputs
  # XLA:TPU leaves buffers in VMEM out of the temporaries; XLA:CPU leaves
  # temporaries out of the peak.
  return max(peak, memory.temp_size_in_bytes)


def accessed_bytes(compiled: Any) -> int | None:
  """Returns the compiler's estimate of bytes accessed, None without one.

  Includes on-chip memory, and counts loop bodies once.
  """
  accessed = (compiled.cost_analysis() or {}).get("bytes accessed")
  return None if accessed is None else int(accessed)


def collectives(program: str, devices: int) -> dict[str, int]:
  """Returns the bytes that a device receives, by kind of collective.

  `program` is the HLO text of a compiled program.
  """
  total: Counter[str] = Counter()
  module = text.parse(program)
  for found in collectives_lib.collectives(module, {"devices": devices}):
    total[found.kind] += found.received_bytes
  return dict(total)
