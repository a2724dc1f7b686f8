"""The bound on a program's speed that its chips set: never a prediction."""

import math
from typing import NamedTuple

from jssl.preflight.requirements import Needs
from jssl.preflight.targets import Target


class Roofline(NamedTuple):
  """The least time that a run of a program can take.

  Attributes:
    compute: seconds of a chip's products, at the rate of its data sheet.
    memory: seconds of what it moves in its large memory.
    links: seconds of what it sends, over the links of its slice or node.
    network: seconds of what of it goes to other nodes.
    images: that all chips go through in it.
  """

  compute: float
  memory: float
  links: float
  network: float
  images: int

  @property
  def parts(self) -> dict[str, float]:
    """Seconds by what takes them; the network where there is one."""
    parts = {"FLOPs": self.compute, "HBM": self.memory, "links": self.links}
    return {**parts, "network": self.network} if self.network else parts

  @property
  def seconds(self) -> float:
    """The largest of them: all could go on at the same time."""
    return max(self.parts.values())

  @property
  def bound_by(self) -> str:
    """Which of them that is."""
    return max(self.parts, key=self.parts.__getitem__)

  @property
  def images_per_second(self) -> float:
    """The bound on the speed of all chips together."""
    return self.images / self.seconds


def roofline(needs: Needs, target: Target) -> Roofline | None:
  """Returns the bound, or None where the program or the chip isn't known.

  What crosses slices goes over the data centre's network, of which nothing is
  assumed: it is left out.
  """
  chip = target.chip
  if chip is None or needs.moved_bytes is None:
    return None
  sent = sum(t.sent_bytes for t in needs.traffic if not t.crosses_slices)
  over_network = sum(t.network_bytes for t in needs.traffic)
  return Roofline(
    compute=chip.devices * needs.product_flops / chip.flops,
    memory=chip.devices * needs.moved_bytes / chip.memory_rate,
    links=chip.devices * sent / chip.link_rate,
    network=chip.devices * over_network / (chip.network_rate or math.inf),
    images=needs.images,
  )
