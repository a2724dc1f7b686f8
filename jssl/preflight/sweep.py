"""Requirements of one config at several batch sizes, settings or targets."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jssl.config.parse import replace
from jssl.config.schema import Config
from jssl.preflight import targets
from jssl.preflight.changes import Changes
from jssl.preflight.check import Result, check
from jssl.preflight.programs import STEP
from jssl.preflight.targets import Target


class Size(NamedTuple):
  """A point of a sweep, to be compiled.

  Attributes:
    name: "v5e:16x16" or "data.batch_size=4096".
    target: devices of the run.
    changes: values by config key; None keeps the number of images per device.
  """

  name: str
  target: Target
  changes: Changes | None


class Point(NamedTuple):
  """A compiled point of a sweep.

  Attributes:
    size: setting of the point.
    batch_size: global batch size; None if the number of devices is unknown.
    result: requirements of the train step; None if the config is invalid.
    error: reason why there is no result.
  """

  size: Size
  batch_size: int | None
  result: Result | None
  error: str = ""


def sizes(sweep: str, target: Target) -> list[Size]:
  """Parses the points of a sweep.

  Args:
    sweep: "KEY=V1,V2,..." with integers, for example data.batch_size=1024,2048;
      or names of targets, "v5e:2x4,v5e:16x16", with a constant number of images
      per device.
    target: target of the config.

  Raises:
    ValueError: if `sweep` has another format.
  """
  key, equals, values = sweep.partition("=")
  if not equals:
    return [Size(n, targets.target(n), None) for n in sweep.split(",")]
  try:
    numbers = [int(value) for value in values.split(",")]
  except ValueError as error:
    raise ValueError(
      f"--sweep={sweep}: expected KEY=V1,V2,... with integers, or targets"
    ) from error
  return [Size(f"{key}={v}", target, {key: v}) for v in numbers]


def _resized(config: Config, size: Size, target: Target) -> Config:
  if size.changes is not None:
    return replace(config, size.changes)
  devices, new_devices = len(target.devices()), len(size.target.devices())
  batch = config.data.batch_size * new_devices // devices
  return replace(config, {"data.batch_size": batch, "mesh.data": -1})


def sweep(
  config: Config,
  target: Target,
  sizes: Sequence[Size],
  log: Callable[[str], None] = lambda line: None,
) -> list[Point]:
  """Compiles the train step at each size.

  Args:
    config: config of the run.
    target: target of the config.
    sizes: points of the sweep.
    log: receives a line per size.
  """
  points = []
  for size in sizes:
    log(f"Compiling {size.name}.")
    batch_size, result, error = None, None, ""
    try:
      resized = _resized(config, size, target)
      batch_size = resized.data.batch_size
      result = check(resized, size.target, only=STEP)
    except (ValueError, TypeError, RuntimeError) as raised:
      error = str(raised)
    points.append(Point(size, batch_size, result, error))
  return points
