"""Accelerators by name: devices to compile for that are not there, and rates.

XLA's TPU and GPU compilers run on any machine. What they say of a program are
sizes and bounds, never times.
"""

import dataclasses
import importlib.util
import os
import re
from typing import Any

# An H100 SXM and an H200, as XLA's GPU compiler wants to be told about them.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth}
  l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: {memory} shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "NVIDIA {name}"
"""

# Read when compilers are loaded: no accelerator is looked for, and those of
# several processes don't wait for each other.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}


@dataclasses.dataclass(frozen=True)
class Chip:
  """What vendors say of a chip: bounds, which no program reaches.

  Attributes:
    flops: bfloat16 products and sums, a second.
    memory_rate: bytes a second, of its large memory.
    link_rate: bytes a second that it sends to others of its slice or node, over
      all links.
    network_rate: bytes a second that it sends to other nodes; None where
      nothing is assumed of what joins them.
    program_bytes: of the large memory, that a program can have of a device: on
      TPUs as the compiler says, on GPUs three quarters, which JAX takes unless
      it is told otherwise.
    devices: that JAX sees of it.
  """

  flops: float
  memory_rate: float
  link_rate: float
  program_bytes: float
  network_rate: float | None = None
  devices: int = 1


_GIB = 2.0**30
_GPU_BYTES = {"h100": 84942979072, "h200": 151397597184}
_GPUS = tuple(_GPU_BYTES)
# Between nodes: an assumption, as clouds and DGX systems have it. InfiniBand of
# 400 Gbit/s for each GPU; within one NVLink's rate holds.
_INFINIBAND = 400e9 / 8
CHIPS = {
  "v4": Chip(275e12, 1228e9, 300e9, 30.75 * _GIB),
  "v5e": Chip(197e12, 819e9, 200e9, 15.75 * _GIB),
  "v5p": Chip(459e12, 2765e9, 600e9, 95.74 * _GIB),
  "v6e": Chip(918e12, 1640e9, 448e9, 31.25 * _GIB),
  "tpu7x": Chip(2307e12, 7380e9, 1200e9, 94.75 * _GIB, devices=2),
  "h100": Chip(989e12, 3352e9, 450e9, 0.75 * _GPU_BYTES["h100"], _INFINIBAND),
  "h200": Chip(989e12, 4800e9, 450e9, 0.75 * _GPU_BYTES["h200"], _INFINIBAND),
}


_WITHOUT_TRITON = "--xla_gpu_enable_triton_gemm=false"
# Any text; a number and an x before a letter are slices.
_SLICES = re.compile(r"(?:(\d+)x(?=[a-z]))?(.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Target:
  """Devices that a program is compiled for.

  Attributes:
    name: as it was given.
    kind: of the chips, a name in `CHIPS` or "cpu".
    shape: of the slice, or nodes and GPUs of each, or the number of devices.
    slices: TPU slices that are joined by the data centre's network.

  Raises:
    ValueError: there is no such target; says which there are.
  """

  name: str
  kind: str
  shape: tuple[int, ...]
  slices: int = 1

  def __post_init__(self) -> None:
    if self.slices < 1 or (self.slices > 1 and not self.is_tpu):
      raise ValueError(
        f"target={self.name!r} has {self.slices} slices: TPUs alone come in "
        "slices, of which there must be one at least"
      )

  @property
  def is_tpu(self) -> bool:
    """Whether it is one of Google's."""
    return self.kind in CHIPS and self.kind not in _GPUS

  @property
  def chip(self) -> Chip | None:
    """What is known of its chips; None for a CPU."""
    return CHIPS.get(self.kind)

  @property
  def nodes(self) -> int:
    """How many nodes it has that a network joins; 1 where all are linked."""
    return self.shape[0] if self.kind in _GPUS else 1

  def prepare(self, *others: "Target") -> None:
    """Readies JAX to compile for it; to be called before JAX is used.

    Accelerators of this machine are left alone.

    Args:
      *others: that it is readied for too. A process has one number of CPU
        devices, which is the most that any of them asks for.
    """
    for name, value in _ENVIRONMENT.items():
      os.environ.setdefault(name, value)
    if self.kind in _GPUS:
      # Without a GPU nothing is tuned, and of some products of scanned layers
      # Triton's tiles aren't found: they are left to cuBLAS.
      flags = os.environ.get("XLA_FLAGS", ""), _WITHOUT_TRITON
      os.environ["XLA_FLAGS"] = " ".join(filter(None, flags))
    import jax

    jax.config.update("jax_platforms", "cpu")
    cpus = [t.shape[0] for t in (self, *others) if t.kind == "cpu"]
    if cpus:
      jax.config.update("jax_num_cpu_devices", max(cpus))

  def devices(self) -> list[Any]:
    """Returns its devices, to make a mesh of.

    Raises:
      ValueError: its compiler isn't installed, or doesn't know it.
    """
    import jax
    from jax.experimental import topologies

    if self.kind == "cpu":
      found = jax.devices("cpu")
      if len(found) < self.shape[0]:
        raise ValueError(
          f"target={self.name}: this process has {len(found)} CPU devices, and "
          "JAX was used before it was told of more"
        )
      return found[: self.shape[0]]
    module, extra = (
      ("libtpu", "preflight")
      if self.is_tpu
      else ("jax_plugins.xla_cuda12", "cuda12")
    )
    if not _is_installed(module):
      raise ValueError(
        f"target={self.name} needs its compiler, {module}, which isn't "
        f'installed; pip install "jssl[{extra}]"'
      )
    try:
      return topologies.get_topology_desc(**self._topology()).devices
    except Exception as error:
      raise ValueError(
        f"target={self.name}: the compiler doesn't know this topology: {error}"
      ) from error

  def _topology(self) -> dict[str, Any]:
    if not self.is_tpu:
      chip = CHIPS[self.kind]
      return {
        "platform": "cuda",
        "topology_name": self.kind,
        "target_config": _HOPPER.format(
          name=self.kind.upper(),
          bandwidth=int(chip.memory_rate),
          memory=_GPU_BYTES[self.kind],
        ),
        "topology": f"1x{self.shape[0]}x{self.shape[1]}",
      }
    shape = "x".join(map(str, self.shape))
    topology: dict[str, Any] = {
      "platform": "tpu",
      "topology_name": f"{self.kind}:{shape}",
    }
    if self.slices > 1:
      topology["num_slices"] = self.slices
    if self.kind == "v4":
      # Both cores of a chip as one device, as on real ones.
      topology["chip_config_name"] = "megacore"
    return topology


def _is_installed(module: str) -> bool:
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:
    return False


def target(name: str) -> Target:
  """Returns a target by its name; imports nothing heavy.

  Args:
    name: a TPU topology ("v5e:16x16") or several slices of one
      ("2xv5e:16x16"), GPUs of one node or of several ("h100:8", "h100:2x8"), or
      CPU devices ("cpu:8").

  Raises:
    ValueError: there is no such target; says which there are.
  """
  slices, of_slice = _SLICES.fullmatch(name).groups()  # type: ignore[union-attr]
  kind, _, size = of_slice.partition(":")
  parts = size.split("x")
  known = kind in CHIPS or kind == "cpu"
  if not known or not all(re.fullmatch(r"[1-9]\d*", part) for part in parts):
    raise ValueError(
      f"target={name!r} is not known: expected a TPU topology of "
      f"{', '.join(k for k in CHIPS if k not in _GPUS)} (as v5e:16x16, "
      "v5p:4x4x4; 2xv5e:16x16 for two slices), GPUs of "
      f"{', '.join(_GPUS)} (as h100:8, h100:2x8 for two nodes) or cpu:8"
    )
  shape = tuple(map(int, parts))
  if kind in _GPUS and len(shape) == 1:
    shape = 1, *shape
  dims = {"cpu": 1} | dict.fromkeys(_GPUS, 2)
  allowed = (dims[kind],) if kind in dims else (2, 3)
  if len(shape) not in allowed:
    raise ValueError(
      f"target={name!r}: expected {' or '.join(map(str, allowed))} numbers "
      f"after {kind}:"
    )
  return Target(name, kind, shape, 1 if slices is None else int(slices))
