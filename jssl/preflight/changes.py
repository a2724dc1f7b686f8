"""Changes of a config that make it fit, verified by compiling them."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jssl.config.parse import replace
from jssl.config.schema import Config
from jssl.preflight.check import Result, check
from jssl.preflight.programs import FEATURES, STEP
from jssl.preflight.targets import Target

_MAX_ATTEMPTS = 6

# Values by config key.
Changes = dict[str, Any]


class Attempt(NamedTuple):
  """A compiled change of a config.

  Attributes:
    changes: values by config key.
    result: requirements of the changed config; None if it is invalid.
  """

  changes: Changes
  result: Result | None

  @property
  def fits(self) -> bool:
    """True if the changed config fits."""
    return self.result is not None and self.result.fits

  @property
  def flags(self) -> str:
    """Command-line flags that make the changes."""
    return " ".join(f"--config.{k}={v}" for k, v in self.changes.items())


def _memory_ratio(result: Result) -> float:
  """Returns the step's working memory over the memory available to it."""
  memory = result.step.memory
  if memory.peak is None or memory.limit is None:
    return 2.0
  held = sum(result.sizes)
  # The peak includes arguments but not prefetched batches.
  working = memory.peak - (held - result.sizes.prefetched)
  return max(working, 1) / max(memory.limit - held, memory.limit / 20)


def candidates(config: Config, result: Result) -> Iterator[Changes]:
  """Yields changes that reduce the memory of the train step, cheapest first.

  In this order: fewer prefetched batches, if the step alone fits; parameters
  sharded over `fsdp`, if they dominate; rematerialised blocks; chunks of the
  batch, which preserve loss and gradient except for BatchNorm statistics; and a
  smaller batch.
  """
  devices = math.prod(result.mesh.values())
  held, limit = sum(result.sizes), result.step.memory.limit or 0
  base: Changes = {}
  peak = result.step.memory.peak
  if peak is not None and peak <= limit and result.sizes.batch:
    yield {"data.prefetch_batches": (limit - peak) // result.sizes.batch}
  if held > limit / 3 and result.mesh["fsdp"] == 1:
    fsdp = math.gcd(
      devices, 2 ** math.ceil(math.log2(max(4 * held / limit, 2)))
    )
    base = {"mesh.data": devices // fsdp, "mesh.fsdp": fsdp}
    yield base
  if getattr(config.model, "remat", "") == "none":
    base = {**base, "model.remat": "block"}
    yield base
  least = 2 ** max(1, math.ceil(math.log2(_memory_ratio(result))))
  for factor in (1, 2, 4):
    chunks = config.train.chunks * least * factor
    if config.data.batch_size % (chunks * devices) == 0:
      yield {**base, "train.chunks": chunks}
  for factor in (2, 4):
    batch = config.data.batch_size // factor
    if batch % devices == 0 and batch:
      yield {**base, "data.batch_size": batch}


def _probe_candidates(config: Config) -> Iterator[Changes]:
  for factor in (2, 4, 8, 16):
    if batch := config.probe.batch_size // factor:
      yield {"probe.batch_size": batch}


def suggest(
  config: Config,
  target: Target,
  result: Result,
  log: Callable[[str], None] = lambda line: None,
) -> list[Attempt]:
  """Compiles changes of a config until one fits.

  Args:
    config: config that does not fit.
    target: devices of the run.
    result: requirements of the config.
    log: receives a line per attempt.

  Returns:
    The attempts in order. The last one fits, if any does.
  """
  attempts: list[Attempt] = []

  def search(candidates: Iterator[Changes], program: str) -> bool:
    for changes in itertools.islice(candidates, _MAX_ATTEMPTS):
      try:
        found = check(replace(config, changes), target, only=program)
      except (ValueError, RuntimeError):
        found = None
      attempt = Attempt(changes, found)
      attempts.append(attempt)
      log(f"{attempt.flags}: {'fits' if attempt.fits else 'does not fit'}")
      if attempt.fits:
        return True
    return False

  # Changes of one program do not affect the other, so each is compiled alone.
  fits = {one.name: one.fits for one in result.requirements}
  step_changes: Changes = {}
  if not fits[STEP]:
    if not search(candidates(config, result), STEP):
      return attempts
    step_changes = attempts[-1].changes
  if not fits.get(FEATURES, True):
    changes = ({**step_changes, **own} for own in _probe_candidates(config))
    search(changes, FEATURES)
  return attempts
