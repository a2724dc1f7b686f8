"""Roofline bound on the speed of a program."""

from typing import NamedTuple


class Roofline(NamedTuple):
  """Lower bounds on the time of one run of a program, in seconds.

  Data-sheet rates and perfect overlap are assumed: bounds, not predictions.

  Attributes:
    compute: matrix products and convolutions at peak FLOP/s.
    memory: HBM traffic at peak bandwidth.
    links: collectives within a slice or node, over ICI or NVLink.
    network: collectives between nodes.
    images: number of images per run, on all devices.
  """

  compute: float
  memory: float
  links: float
  network: float
  images: int

  @property
  def parts(self) -> dict[str, float]:
    """Seconds by resource; the network only if it is used."""
    parts = {"FLOPs": self.compute, "HBM": self.memory, "links": self.links}
    return {**parts, "network": self.network} if self.network else parts

  @property
  def seconds(self) -> float:
    """The largest of the bounds."""
    return max(self.parts.values())

  @property
  def bound_by(self) -> str:
    """The limiting resource."""
    return max(self.parts, key=self.parts.__getitem__)

  @property
  def images_per_second(self) -> float:
    """Upper bound on the throughput of all devices."""
    return self.images / self.seconds
