"""Requirements of a config, of changes that make it fit, and of sweeps."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from jssl.config.parse import replace
from jssl.config.schema import Config
from jssl.preflight import targets
from jssl.preflight.compiler import in_own_process
from jssl.preflight.programs import FEATURES, STEP, Plan, programs
from jssl.preflight.requirements import Requirements, measure
from jssl.preflight.targets import Target

# Values by config key.
Changes = dict[str, Any]


class Result(NamedTuple):
  """Requirements of the train step and of the probe features on a target."""

  target: Target
  plan: Plan
  requirements: tuple[Requirements, ...]

  @property
  def fits(self) -> bool:
    """True if every program fits."""
    return all(one.fits for one in self.requirements)

  @property
  def step(self) -> Requirements:
    """Requirements of the train step."""
    return self.requirements[0]


def _check(config: Config, target: Target, names: Sequence[str]) -> Result:
  plan, compilable = programs(config, target.devices())
  selected = [one for one in compilable if one.name in names]
  # Concurrently, because compilation is largely single-threaded.
  with ThreadPoolExecutor(len(selected)) as threads:
    found = threads.map(lambda one: measure(one, target, plan.mesh), selected)
  return Result(target, plan, tuple(found))


def check(config: Config, target: Target, *, only: str = "") -> Result:
  """Compiles the programs of a config, or `only` one of them, for a target.

  Compilers of TPUs and GPUs run in a process for each program.

  Raises:
    ValueError, TypeError: if the config is invalid on these devices, or the
      target's compiler is not installed.
    RuntimeError: if the compiler crashes.
  """
  names = [only] if only else [STEP, FEATURES]
  if target.kind == "cpu":
    return _check(config, target, names)

  def check_one(name: str) -> Result:
    return in_own_process(target, f"the {name}", _check, config, target, [name])

  with ThreadPoolExecutor(len(names)) as threads:
    results = list(threads.map(check_one, names))
  found = (one for result in results for one in result.requirements)
  return results[0]._replace(requirements=tuple(found))


class Trial(NamedTuple):
  """A changed config on a target.

  Attributes:
    name: "v5e:16x16", or the flags that make the changes.
    result: requirements; None until compiled, and if the config is invalid.
    error: reason why the config is invalid.
  """

  name: str
  target: Target
  changes: Changes
  result: Result | None = None
  error: str = ""

  @property
  def fits(self) -> bool:
    """True if the changed config fits."""
    return self.result is not None and self.result.fits

  @property
  def batch_size(self) -> int | None:
    """Global batch size; None if the config is invalid."""
    return self.result.step.images if self.result else None

  def compile(self, config: Config, only: str) -> "Trial":
    """Returns the trial with its result or error; see `check` for `only`."""
    try:
      changed = replace(config, self.changes)
      return self._replace(result=check(changed, self.target, only=only))
    except (ValueError, TypeError, RuntimeError) as error:
      return self._replace(error=str(error))


def _memory_ratio(result: Result) -> float:
  """Returns the step's working memory over the memory available to it."""
  memory = result.step.memory
  if memory.peak is None or memory.limit is None:
    return 2.0
  held = sum(result.plan.sizes)
  # The peak includes arguments but not prefetched batches.
  working = memory.peak - (held - result.plan.sizes.prefetched)
  return max(working, 1) / max(memory.limit - held, memory.limit / 20)


def candidates(config: Config, result: Result) -> Iterator[Changes]:
  """Yields changes that reduce the memory of the train step, cheapest first.

  In this order: fewer prefetched batches, if the step alone fits; parameters
  sharded over `fsdp`, if they dominate; rematerialised blocks; chunks of the
  batch, which preserve loss and gradient except for BatchNorm statistics; and a
  smaller batch.
  """
  devices = math.prod(result.plan.mesh.values())
  held, limit = sum(result.plan.sizes), result.step.memory.limit or 0
  base: Changes = {}
  peak = result.step.memory.peak
  if peak is not None and peak <= limit and result.plan.sizes.batch:
    yield {"data.prefetch_batches": (limit - peak) // result.plan.sizes.batch}
  if held > limit / 3 and result.plan.mesh["fsdp"] == 1:
    least = 2 ** math.ceil(math.log2(max(4 * held / limit, 2)))
    fsdp = math.gcd(devices, least)
    base = {"mesh.data": devices // fsdp, "mesh.fsdp": fsdp}
    yield base
  if getattr(config.model, "remat", "block") != "block":
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
      trial = Trial(flags, target, changes)
      trials.append(trial.compile(config, program))
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


def sizes(sweep: str, config: Config, target: Target) -> list[Trial]:
  """Parses the points of a sweep, to be compiled.

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
    trials = []
    for other in map(targets.target, sweep.split(",")):
      batch = images * other.num_devices // target.num_devices
      changes = {"data.batch_size": batch, "mesh.data": -1}
      trials.append(Trial(other.name, other, changes))
    return trials
  try:
    numbers = [int(value) for value in values.split(",")]
  except ValueError as error:
    raise ValueError(
      f"--sweep={sweep}: expected KEY=V1,V2,... with integers, or targets"
    ) from error
  return [Trial(f"{key}={v}", target, {key: v}) for v in numbers]


def sweep(
  config: Config,
  trials: Iterable[Trial],
  log: Callable[[str], None] = lambda line: None,
) -> list[Trial]:
  """Compiles the train step of a config for each trial."""
  points = []
  for trial in trials:
    log(f"Compiling {trial.name}.")
    points.append(trial.compile(config, STEP))
  return points
