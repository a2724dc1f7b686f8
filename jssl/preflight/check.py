"""A config on a target: all that preflight finds out."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from jssl.config.schema import Config
from jssl.preflight.programs import STEP, Sizes, programs
from jssl.preflight.requirements import Needs, measure
from jssl.preflight.roofline import Roofline, roofline
from jssl.preflight.targets import Target


class Result(NamedTuple):
  """What a config needs on a target.

  Attributes:
    target: that it was compiled for.
    mesh: sizes of the axes by name.
    hosts: that the devices belong to.
    prepared: whether the data set is on this machine; else images are taken
      for as large as the config makes them.
    image_bytes: of an image as it goes to a device.
    sizes: of what a device holds between two steps.
    checkpoint_bytes: of a checkpoint, on the disk.
    needs: of the train step, and of the probe's features.
  """

  target: Target
  mesh: dict[str, int]
  hosts: int
  prepared: bool
  image_bytes: int
  sizes: Sizes
  checkpoint_bytes: int
  needs: tuple[Needs, ...]

  @property
  def fits(self) -> bool:
    """Whether every program does."""
    return all(needs.fits for needs in self.needs)

  @property
  def step(self) -> Needs:
    """The train step's, which is the first."""
    return self.needs[0]

  @property
  def step_bound(self) -> Roofline | None:
    """The bound on the train step's speed."""
    return roofline(self.step, self.target)


def hosts_of(devices: list[Any]) -> int:
  """Returns how many processes the devices belong to."""
  return len({device.process_index for device in devices})


def check(config: Config, target: Target, *, only: str = "") -> Result:
  """Compiles the programs of a config for a target, and says what they need.

  Args:
    config: see configs/.
    target: devices that need not be there.
    only: name of a program, to leave out the other.

  Raises:
    ValueError, TypeError: the config can't be run on so many devices, or the
      target's compiler isn't there.
  """
  devices = target.devices()
  found = programs(config, devices)
  mesh = dict(found.run.mesh.shape)
  wanted = [one for one in found.compilable if only in ("", one.name)]
  # The probe has no batches ahead of the one that it sees.
  ready = {STEP: found.sizes.prefetched}
  # At the same time: much of a compilation is the work of one thread.
  with ThreadPoolExecutor(len(wanted)) as threads:
    needs = threads.map(
      lambda one: measure(one, target, mesh, ready.get(one.name, 0)), wanted
    )
  return Result(
    target,
    mesh,
    hosts_of([*found.run.mesh.devices.flat]),
    found.prepared,
    math.prod(found.run.source.image_shape),
    found.sizes,
    found.checkpoint_bytes,
    tuple(needs),
  )
