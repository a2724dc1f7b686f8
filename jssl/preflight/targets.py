"""Target devices by name, with data-sheet rates of their chips.

XLA's TPU and GPU compilers run without an accelerator. Their results are sizes
and counts, not run times.
"""

import dataclasses
import math
import os
import pathlib
import re
import string
from importlib.util import find_spec
from typing import Any

from jssl.runtime.chips import CHIPS, GPU_BYTES, Chip

# Compiling needs no accelerator, and processes must not wait for each other's
# lock on libtpu.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}
_NO_TRITON = "--xla_gpu_enable_triton_gemm=false"
_GPUS = tuple(GPU_BYTES)
# Fields of gpu.txtpb.
_HOPPER = {
  "core_memory": 233472,
  "block_memory": 232448,
  "cores": 132,
  "fpus": 128,
  "cache": 52428800,
  "clock": 1.98,
  "major": 9,
}
_GPU_FIELDS = {
  "a100": {
    "core_memory": 167936,
    "block_memory": 166912,
    "cores": 108,
    "fpus": 64,
    "cache": 41943040,
    "clock": 1.41,
    "major": 8,
  },
  "h100": _HOPPER,
  "h200": _HOPPER,
}


# "2xv5e:16x16" is 2 slices of "v5e:16x16".
_NAME = re.compile(r"(?:(\d+)x)?([a-z]\w*):([1-9]\d*(?:x[1-9]\d*)*)")


@dataclasses.dataclass(frozen=True)
class Target:
  """Devices that a program is compiled for.

  Attributes:
    kind: a key of `CHIPS`, or "cpu".
    shape: topology of a TPU slice, (nodes, GPUs per node), or (CPU devices,).
    slices: number of TPU slices, joined by the data-centre network.
  """

  name: str
  kind: str
  shape: tuple[int, ...]
  slices: int

  @property
  def is_tpu(self) -> bool:
    """True for TPU targets."""
    return self.kind in CHIPS and self.kind not in _GPUS

  @property
  def chip(self) -> Chip | None:
    """Data-sheet rates; None for CPUs."""
    return CHIPS.get(self.kind)

  @property
  def nodes(self) -> int:
    """Number of nodes of GPUs; 1 for other targets."""
    return self.shape[0] if self.kind in _GPUS else 1

  @property
  def num_devices(self) -> int:
    """Number of JAX devices."""
    per_chip = self.chip.devices if self.chip else 1
    return self.slices * math.prod(self.shape) * per_chip

  def prepare(self, *others: "Target") -> None:
    """Configures JAX for compiling; must be called before JAX is used.

    The number of CPU devices is the largest that this or another target needs.
    """
    for name, value in _ENVIRONMENT.items():
      os.environ.setdefault(name, value)
    if self.kind in _GPUS:
      # Without a GPU there is no autotuning, and Triton fails to find tiles for
      # some products in scanned layers. cuBLAS does not need any.
      flags = os.environ.get("XLA_FLAGS", "")
      if _NO_TRITON not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_NO_TRITON}".strip()
    import jax

    jax.config.update("jax_platforms", "cpu")
    # Otherwise a cached program can have source lines of another checkout.
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    cpus = [t.shape[0] for t in (self, *others) if t.kind == "cpu"]
    if cpus:
      jax.config.update("jax_num_cpu_devices", max(cpus))

  def devices(self) -> list[Any]:
    """Returns the target's devices, for building a mesh.

    Raises:
      ValueError: if the compiler is not installed or rejects the topology.
    """
    import jax
    from jax.experimental import topologies

    if self.kind == "cpu":
      devices = jax.devices("cpu")
      if len(devices) < self.shape[0]:
        raise ValueError(
          f"target={self.name}: this process has {len(devices)} CPU devices; "
          "their number cannot change after JAX is initialised"
        )
      return devices[: self.shape[0]]
    options: dict[str, Any]
    if self.is_tpu:
      module, extra = "libtpu", "preflight"
      shape = "x".join(map(str, self.shape))
      options = {"platform": "tpu", "topology_name": f"{self.kind}:{shape}"}
      if self.slices > 1:
        options["num_slices"] = self.slices
      if self.kind == "v4":
        # One JAX device per chip, as on real hosts.
        options["chip_config_name"] = "megacore"
    else:
      module, extra = "jax_cuda12_plugin", "cuda12"
      template = pathlib.Path(__file__).with_name("gpu.txtpb").read_text()
      target_config = string.Template(template).substitute(
        name=CHIPS[self.kind].kinds[0],
        bandwidth=int(CHIPS[self.kind].memory_rate),
        memory=GPU_BYTES[self.kind],
        **_GPU_FIELDS[self.kind],
      )
      options = {
        "platform": "cuda",
        "topology_name": self.kind,
        "target_config": target_config,
        "topology": f"1x{self.shape[0]}x{self.shape[1]}",
      }
    if find_spec(module) is None:
      raise ValueError(
        f"target={self.name}: the compiler {module} is not installed; run "
        f'pip install "jssl[{extra}]"'
      )
    try:
      return topologies.get_topology_desc(**options).devices
    except Exception as error:
      raise ValueError(
        f"target={self.name}: the compiler rejects this topology: {error}"
      ) from error


def target(name: str) -> Target:
  """Parses the name of a target, without importing JAX.

  Args:
    name: a TPU topology ("v5e:16x16"), several slices of one ("2xv5e:16x16"),
      GPUs of one node or several ("h100:8", "h100:2x8"), or CPU devices
      ("cpu:8").
  """
  match = _NAME.fullmatch(name)
  if not match or match[2] not in (*CHIPS, "cpu"):
    raise ValueError(
      f"unknown target={name!r}: expected a TPU topology of "
      f"{', '.join(k for k in CHIPS if k not in _GPUS)} (v5e:16x16, "
      "v5p:4x4x4; 2xv5e:16x16 for two slices), GPUs of "
      f"{', '.join(_GPUS)} (h100:8; h100:2x8 for two nodes) or cpu:8"
    )
  slices, kind, size = match.groups("1")
  shape = tuple(map(int, size.split("x")))
  if kind in _GPUS and len(shape) == 1:
    shape = 1, *shape
  dimensions = {"cpu": (1,), **dict.fromkeys(_GPUS, (2,))}.get(kind, (2, 3))
  if len(shape) not in dimensions:
    raise ValueError(
      f"target={name!r}: expected {' or '.join(map(str, dimensions))} "
      f"dimensions after {kind}:, got {size}"
    )
  found = Target(name, kind, shape, int(slices))
  if found.slices < 1 or (found.slices > 1 and not found.is_tpu):
    raise ValueError(
      f"target={name!r}: expected at least 1 slice for a TPU and 1 for other "
      f"targets, got {slices}"
    )
  return found
