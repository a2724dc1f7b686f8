"""One config at several sizes: what a device needs of each."""

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
  """A point of a sweep.

  Attributes:
    name: of it, as "v5e:16x16" or "data.batch_size=4096".
    target: that it is compiled for.
    changes: of the config; None keeps the images of each device.
  """

  name: str
  target: Target
  changes: Changes | None


class Point(NamedTuple):
  """What was found at a size; `result` is None where the config can't be run.

  Attributes:
    size: that was compiled.
    batch_size: of all devices; None where these aren't known.
    result: of the train step.
    error: why there is none.
  """

  size: Size
  batch_size: int | None
  result: Result | None
  error: str = ""


def sizes(sweep: str, target: Target) -> list[Size]:
  """Returns what a sweep says.

  Args:
    sweep: "KEY=V1,V2,..." of whole numbers, as data.batch_size=1024,2048, or
      names of targets, "v5e:2x4,v5e:16x16", on which each device has as many
      images as on `target`.
    target: of the config.

  Raises:
    ValueError: it says neither.
  """
  key, equals, values = sweep.partition("=")
  if not equals:
    return [Size(n, targets.target(n), None) for n in sweep.split(",")]
  try:
    numbers = [int(value) for value in values.split(",")]
  except ValueError as error:
    raise ValueError(
      f"--sweep={sweep}: expected KEY=V1,V2,... with whole numbers, or targets"
    ) from error
  return [Size(f"{key}={v}", target, {key: v}) for v in numbers]


def _at(config: Config, size: Size, target: Target) -> Config:
  if size.changes is not None:
    return replace(config, size.changes)
  devices, there = len(target.devices()), len(size.target.devices())
  batch = config.data.batch_size * there // devices
  return replace(config, {"data.batch_size": batch, "mesh.data": -1})


def sweep(
  config: Config,
  target: Target,
  wanted: Sequence[Size],
  tell: Callable[[str], None] = lambda line: None,
) -> list[Point]:
  """Returns a point for each size, its train step compiled.

  Args:
    config: see configs/.
    target: of the config.
    wanted: see `sizes`.
    tell: takes a line before each.
  """
  points = []
  for size in wanted:
    tell(f"{size.name}: compiling")
    batch_size = None
    try:
      at = _at(config, size, target)
      batch_size = at.data.batch_size
      result = check(at, size.target, only=STEP)
    except (ValueError, TypeError, RuntimeError) as error:
      points.append(Point(size, batch_size, None, str(error)))
      continue
    points.append(Point(size, batch_size, result))
  return points
