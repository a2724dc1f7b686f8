"""What to change where a train step doesn't fit: tried by compiling it."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jssl.preflight.check import Result, check
from jssl.targets import Target

_MOST_TRIES = 6

# Keys of a config and their values.
Changes = dict[str, Any]


class Tried(NamedTuple):
  """A change of the config, compiled.

  Attributes:
    changes: values by key.
    result: with them; None where the config can't be run so.
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


def changed(config: ConfigDict, changes: Changes) -> ConfigDict:
  """Returns a copy of a config with other values.

  Raises:
    ValueError: it has no such key.
  """
  copy = config.copy_and_resolve_references()
  with copy.unlocked():
    for key, value in changes.items():
      section, _, name = key.partition(".")
      if name not in copy.get(section, {}):
        raise ValueError(f"config.{key} is not a key of the config")
      copy[section][name] = value
  return copy


def _shortage(result: Result) -> float:
  """Returns how many times what is free the step's own memory takes."""
  memory = result.step.memory
  if memory.peak is None or memory.limit is None:
    return 2.0
  held = sum(result.sizes)
  # A compiler that gave up says the temporaries alone.
  own = memory.peak - (memory.arguments or 0)
  return own / max(memory.limit - held, memory.limit / 20)


def candidates(config: ConfigDict, result: Result) -> Iterator[Changes]:
  """Yields changes that need less memory, what costs least speed first.

  Parameters split over `fsdp` where they are what fills the memory; then the
  backbone's blocks computed anew in the backward pass; chunks of the batch,
  which leave the loss and its gradient as they are; and at last a smaller
  batch, which doesn't.
  """
  devices = math.prod(result.mesh.values())
  held, limit = sum(result.sizes), result.step.memory.limit or 0
  split: Changes = {}
  if held > limit / 3 and result.mesh["fsdp"] == 1:
    ways = math.gcd(
      devices, 2 ** math.ceil(math.log2(max(4 * held / limit, 2)))
    )
    split = {"mesh.data": devices // ways, "mesh.fsdp": ways}
    yield split
  anew: Changes = dict(split)
  if config.model.get("remat") == "none":
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


def suggest(
  config: ConfigDict,
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
  for changes in candidates(config, result):
    if len(tried) == _MOST_TRIES:
      break
    try:
      found = check(changed(config, changes), target)
    except ValueError:
      found = None
    tried.append(Tried(changes, found))
    tell(
      f"{tried[-1].in_words()}: {'fits' if tried[-1].fits else 'does not fit'}"
    )
    if tried[-1].fits:
      break
  return tried
