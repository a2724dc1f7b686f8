"""Data-sheet rates of accelerators."""

from typing import NamedTuple


class Chip(NamedTuple):
  """Data-sheet rates of a chip: upper bounds, not achievable rates.

  Attributes:
    flops: bfloat16 FLOP/s.
    memory_rate: HBM bandwidth in bytes/s.
    link_rate: ICI or NVLink send bandwidth in bytes/s, over all links.
    program_bytes: HBM available to a program on a device: on TPUs the
      compiler's limit, on GPUs the 75% that JAX preallocates by default.
    kinds: values of `device_kind` of the chip's JAX devices.
    network_rate: send bandwidth to other nodes in bytes/s; None if unknown.
    devices: number of JAX devices per chip.
  """

  flops: float
  memory_rate: float
  link_rate: float
  program_bytes: float
  kinds: tuple[str, ...]
  network_rate: float | None = None
  devices: int = 1


_GIB = 2.0**30
# InfiniBand per GPU in DGX systems and most clouds: 400 Gbit/s for Hopper, 200
# for Ampere.
_NDR, _HDR = 400e9 / 8, 200e9 / 8
GPU_BYTES = {"a100": 85100068864, "h100": 84942979072, "h200": 151397597184}
_A100, _H100, _H200 = (
  0.75 * GPU_BYTES[name] for name in ("a100", "h100", "h200")
)
CHIPS = {
  "v4": Chip(275e12, 1228e9, 300e9, 30.75 * _GIB, ("TPU v4",)),
  "v5e": Chip(197e12, 819e9, 200e9, 15.75 * _GIB, ("TPU v5 lite", "TPU v5e")),
  "v5p": Chip(459e12, 2765e9, 600e9, 95.74 * _GIB, ("TPU v5", "TPU v5p")),
  "v6e": Chip(918e12, 1640e9, 448e9, 31.25 * _GIB, ("TPU v6 lite", "TPU v6e")),
  "tpu7x": Chip(
    2307e12, 7380e9, 1200e9, 94.75 * _GIB, ("TPU7x", "TPU v7x"), devices=2
  ),
  "a100": Chip(312e12, 2039e9, 300e9, _A100, ("NVIDIA A100-SXM4-80GB",), _HDR),
  "h100": Chip(989e12, 3352e9, 450e9, _H100, ("NVIDIA H100 80GB HBM3",), _NDR),
  "h200": Chip(989e12, 4800e9, 450e9, _H200, ("NVIDIA H200",), _NDR),
}
