"""What to change where a program doesn't fit: tried by compiling it."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jssl.config.parse import replace
from jssl.config.schema import Config
from jssl.preflight.check import Result, check
from jssl.preflight.programs import FEATURES, STEP
from jssl.preflight.targets import Target

_MOST_TRIES = 6

# Keys of a config and their values.
Changes = dict[str, Any]


class Tried(NamedTuple):
  """A change of the config, compiled.

  Attributes:
    changes: values by key.
    result: of what didn't fit, with them; None where the config can't be run
      so.
  """

  changes: Changes
  result: Result | None

  @property
  def fits(self) -> bool:
    """Whether the changed config does."""
    return self.result is not None and self.result.fits

  def in_words(self) -> str:
    """Returns the flags that make the changes."""
    return " ".join(f"--config.{k}={v}" for k, v in self.changes.items())


def _shortage(result: Result) -> float:
  """Returns how many times what is free the step's own memory takes."""
  memory = result.step.memory
  if memory.peak is None or memory.limit is None:
    return 2.0
  held = sum(result.sizes)
  # The peak has the arguments in it, and not the batches that lie ready.
  own = memory.peak - (held - result.sizes.prefetched)
  return max(own, 1) / max(memory.limit - held, memory.limit / 20)


def candidates(config: Config, result: Result) -> Iterator[Changes]:
  """Yields changes of the step that need less memory, the cheapest first.

  Fewer batches ahead where the step alone fits. Parameters split over `fsdp`
  where they are what fills the memory; then the backbone's blocks computed anew
  in the backward pass; chunks of the batch, which leave the loss and its
  gradient as they are, BatchNorm apart, whose statistics are then those of a
  chunk; and at last a smaller batch, which leaves neither.
  """
  devices = math.prod(result.mesh.values())
  held, limit = sum(result.sizes), result.step.memory.limit or 0
  split: Changes = {}
  peak = result.step.memory.peak
  if peak is not None and peak <= limit and result.sizes.batch:
    yield {"data.prefetch_batches": (limit - peak) // result.sizes.batch}
  if held > limit / 3 and result.mesh["fsdp"] == 1:
    ways = math.gcd(
      devices, 2 ** math.ceil(math.log2(max(4 * held / limit, 2)))
    )
    split = {"mesh.data": devices // ways, "mesh.fsdp": ways}
    yield split
  anew: Changes = dict(split)
  if getattr(config.model, "remat", "") == "none":
    anew |= {"model.remat": "block"}
    yield anew
  parts = 2 ** max(1, math.ceil(math.log2(_shortage(result))))
  for more in (1, 2, 4):
    chunks = config.train.chunks * parts * more
    if config.data.batch_size % (chunks * devices) == 0:
      yield {**anew, "train.chunks": chunks}
  for less in (2, 4):
    batch = config.data.batch_size // less
    if batch % devices == 0 and batch:
      yield {**anew, "data.batch_size": batch}


def probe_candidates(config: Config) -> Iterator[Changes]:
  """Yields smaller batches of the probe, where its program doesn't fit."""
  batch = config.probe.batch_size
  for less in (2, 4, 8, 16):
    if batch // less:
      yield {"probe.batch_size": batch // less}


def suggest(
  config: Config,
  target: Target,
  result: Result,
  tell: Callable[[str], None] = lambda line: None,
) -> list[Tried]:
  """Returns changes in the order in which they were tried.

  The last one fits, if any does.

  Args:
    config: that doesn't fit.
    target: that it doesn't fit on.
    result: of it.
    tell: takes a line for each.
  """
  tried: list[Tried] = []

  def until_one_fits(wanted: Iterator[Changes], program: str) -> bool:
    for changes in itertools.islice(wanted, _MOST_TRIES):
      try:
        found = check(replace(config, changes), target, only=program)
      except (ValueError, RuntimeError):
        found = None
      tried.append(Tried(changes, found))
      fits = tried[-1].fits
      tell(f"{tried[-1].in_words()}: {'fits' if fits else 'does not fit'}")
      if fits:
        return True
    return False

  # What a program has no part in doesn't change it: each is compiled alone.
  fits = {needs.name: needs.fits for needs in result.needs}
  done: Changes = {}
  if not fits[STEP]:
    if not until_one_fits(candidates(config, result), STEP):
      return tried
    done = tried[-1].changes
  if not fits.get(FEATURES, True):
    smaller = ({**done, **less} for less in probe_candidates(config))
    until_one_fits(smaller, FEATURES)
  return tried
