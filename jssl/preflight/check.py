"""Requirements of a config, of changes that make it fit, and of sweeps."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from jssl.config.parse import replace
from jssl.config.schema import Config
from jssl.preflight import targets
from jssl.preflight.programs import FEATURES, STEP, Sizes, programs
from jssl.preflight.requirements import Requirements, measure
from jssl.preflight.targets import Target

# Values by config key.
Changes = dict[str, Any]


class Result(NamedTuple):
  """Requirements of a config on a target.

  Attributes:
    mesh: axis sizes by name.
    hosts: number of processes of the run.
    prepared: True if the data set is prepared on this machine; otherwise the
      config's image size is assumed.
    image_bytes: size of an image on the device.
    requirements: requirements of the train step and of the probe features.
  """

  target: Target
  mesh: dict[str, int]
  hosts: int
  prepared: bool
  image_bytes: int
  sizes: Sizes
  checkpoint_bytes: int
  requirements: tuple[Requirements, ...]

  @property
  def fits(self) -> bool:
    """True if every program fits."""
    return all(one.fits for one in self.requirements)

  @property
  def step(self) -> Requirements:
    """Requirements of the train step."""
    return self.requirements[0]


def check(config: Config, target: Target, *, only: str = "") -> Result:
  """Compiles the programs of a config, or `only` one of them, for a target.

  Raises:
    ValueError, TypeError: if the config is invalid on these devices, or the
      target's compiler is not installed.
  """
  found = programs(config, target.devices())
  mesh = dict(found.run.mesh.shape)
  selected = [one for one in found.compilable if only in ("", one.name)]
  # Concurrently, because compilation is largely single-threaded.
  with ThreadPoolExecutor(len(selected)) as threads:
    requirements = threads.map(lambda one: measure(one, target, mesh), selected)
  return Result(
    target,
    mesh,
    len({device.process_index for device in found.run.mesh.devices.flat}),
    found.prepared,
    math.prod(found.run.source.image_shape),
    found.sizes,
    found.checkpoint_bytes,
    tuple(requirements),
  )


class Trial(NamedTuple):
  """A changed config, compiled for a target.

  Attributes:
    name: flags or target that make the changes.
    batch_size: global batch size.
    result: requirements; None if the changed config is invalid.
    error: reason why there is no result.
  """

  name: str
  changes: Changes
  batch_size: int
  result: Result | None
  error: str = ""

  @property
  def fits(self) -> bool:
    """True if the changed config fits."""
    return self.result is not None and self.result.fits


def _try(
  name: str, config: Config, target: Target, changes: Changes, only: str
) -> Trial:
  batch_size = changes.get("data.batch_size", config.data.batch_size)
  try:
    result = check(replace(config, changes), target, only=only)
  except (ValueError, TypeError, RuntimeError) as error:
    return Trial(name, changes, batch_size, None, str(error))
  return Trial(name, changes, batch_size, result)


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
    least = 2 ** math.ceil(math.log2(max(4 * held / limit, 2)))
    fsdp = math.gcd(devices, least)
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


def suggest(
  config: Config,
  target: Target,
  result: Result,
  log: Callable[[str], None] = lambda line: None,
) -> list[Trial]:
  """Compiles changes of a config until one fits.

  Returns the trials in order; the last one fits, if any does.
  """
  trials: list[Trial] = []

  def search(candidates: Iterable[Changes], program: str) -> bool:
    for changes in itertools.islice(candidates, 6):
      flags = " ".join(f"--config.{k}={v}" for k, v in changes.items())
      trials.append(_try(flags, config, target, changes, program))
      log(f"{flags}: {'fits' if trials[-1].fits else 'does not fit'}")
      if trials[-1].fits:
        return True
    return False

  # Changes of one program do not affect the other, so each is compiled alone.
  fits = {one.name: one.fits for one in result.requirements}
  step_changes: Changes = {}
  if not fits[STEP]:
    if not search(candidates(config, result), STEP):
      return trials
    step_changes = trials[-1].changes
  if not fits.get(FEATURES, True):
    batches = [config.probe.batch_size // factor for factor in (2, 4, 8, 16)]
    changes = [{**step_changes, "probe.batch_size": b} for b in batches if b]
    search(changes, FEATURES)
  return trials


class Size(NamedTuple):
  """A point of a sweep: "v5e:16x16" or "data.batch_size=4096"."""

  name: str
  target: Target
  changes: Changes


def sizes(sweep: str, config: Config, target: Target) -> list[Size]:
  """Parses the points of a sweep.

  Args:
    sweep: "KEY=V1,V2,..." with integers, for example data.batch_size=1024,2048;
      or names of targets, "v5e:2x4,v5e:16x16", which get as many images per
      device as `target`.
    config: config of the first point of a sweep over targets.
    target: target of a sweep over a key.
  """
  key, equals, values = sweep.partition("=")
  if not equals:
    images = config.data.batch_size
    return [
      Size(
        other.name,
        other,
        {
          "data.batch_size": images * other.num_devices // target.num_devices,
          "mesh.data": -1,
        },
      )
      for other in map(targets.target, sweep.split(","))
    ]
  try:
    numbers = [int(value) for value in values.split(",")]
  except ValueError as error:
    raise ValueError(
      f"--sweep={sweep}: expected KEY=V1,V2,... with integers, or targets"
    ) from error
  return [Size(f"{key}={v}", target, {key: v}) for v in numbers]


def sweep(
  config: Config,
  sizes: Iterable[Size],
  log: Callable[[str], None] = lambda line: None,
) -> list[Trial]:
  """Compiles the train step of a config at each size."""
  points = []
  for size in sizes:
    log(f"Compiling {size.name}.")
    points.append(_try(size.name, config, size.target, size.changes, STEP))
  return points
