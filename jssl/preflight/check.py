"""Requirements of a config on a target."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from jssl.config.schema import Config
from jssl.preflight.programs import STEP, Sizes, programs
from jssl.preflight.requirements import Requirements, measure
from jssl.preflight.targets import Target


class Result(NamedTuple):
  """Requirements of a config on a target.

  Attributes:
    target: devices that the programs are compiled for.
    mesh: axis sizes by name.
    hosts: number of processes of the run.
    prepared: True if the data set is prepared on this machine; otherwise the
      config's image size is assumed.
    image_bytes: size of an image on the device.
    sizes: state and batches on a device between two steps.
    checkpoint_bytes: size of a checkpoint on disk.
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
  """Compiles the programs of a config for a target.

  Args:
    config: config of the run.
    target: devices of the run.
    only: name of the only program to compile; "" for all.

  Raises:
    ValueError, TypeError: if the config is invalid on these devices, or the
      target's compiler is not installed.
  """
  found = programs(config, target.devices())
  mesh = found.run.mesh
  selected = [one for one in found.compilable if only in ("", one.name)]
  # The probe does not prefetch to the device.
  prefetched = {STEP: found.sizes.prefetched}
  # Concurrently, because compilation is largely single-threaded.
  with ThreadPoolExecutor(len(selected)) as threads:
    requirements = threads.map(
      lambda one: measure(
        one, target, dict(mesh.shape), prefetched.get(one.name, 0)
      ),
      selected,
    )
  return Result(
    target,
    dict(mesh.shape),
    len({device.process_index for device in mesh.devices.flat}),
    found.prepared,
    math.prod(found.run.source.image_shape),
    found.sizes,
    found.checkpoint_bytes,
    tuple(requirements),
  )
