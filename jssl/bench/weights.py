"""Host memory of reading published weights onto sharded devices.

JAX_NUM_CPU_DEVICES=8 simulates 8 devices. A process writes a ViT in the layout
of timm, with random numbers; others read it by `jssl.weights.load_for`, with
parameters sharded over all devices, and blocks in one leaf or several.

The host memory excludes the interpreter, pages of the mapped file, and arrays
on the devices. Its bar is 1.2 times the largest leaf.
"""

import argparse
import functools
import pathlib
import tempfile
import threading
import time
from collections import Counter
from typing import Any

import jax
import numpy as np
import psutil
from safetensors.numpy import save_file

from jssl import mesh, weights
from jssl.bench import harness
from jssl.models import ViT, init_variables
from jssl.typing import Variables

FLAGS = {
  "rounds": (3, "measurements of each case"),
  "width": (1408, "width of the ViT"),
  "depth": (11, "number of blocks"),
}
_SHAPE = (224, 224, 3)
_POLL_S = 5e-4


def _model(args: argparse.Namespace, *, scan_layers: bool) -> ViT:
  return ViT(
    patch_size_px=14,
    width=args.width,
    depth=args.depth,
    num_heads=args.width // 88,
    positions="learned",
    gelu="erf",
    scan_layers=scan_layers,
  )


def _variables(model: ViT) -> Variables:
  """Returns shapes and dtypes."""
  return jax.eval_shape(lambda: init_variables(0, model.backbone(), _SHAPE))


def _write(args: argparse.Namespace, path: str) -> None:
  """Writes the weights of a ViT."""
  rng = np.random.default_rng(0)
  model = _model(args, scan_layers=False)
  variables = jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape, np.float32),
    _variables(model),
  )
  save_file(weights.to_tensors(model, variables, "timm"), path)


class _HostMemory(threading.Thread):
  """Samples the peak of private memory, in bytes, without `on_devices`."""

  def __init__(self) -> None:
    super().__init__(daemon=True)
    self.peak, self.on_devices, self.done = 0, 0, False
    self._info = psutil.Process().memory_info
    self._baseline = self._private()

  def _private(self) -> int:
    memory = self._info()
    return memory.rss - memory.shared

  def sample(self) -> None:
    """Updates the peak."""
    on_devices = self.on_devices
    self.peak = max(self.peak, self._private() - self._baseline - on_devices)

  def run(self) -> None:
    """Samples until `done`."""
    while not self.done:
      self.sample()
      time.sleep(_POLL_S)


def _read(args: argparse.Namespace, path: str, scan_layers: bool) -> Any:
  """Reads the file in this process and returns a timing with its memory."""
  model = _model(args, scan_layers=scan_layers)
  shapes = _variables(model)
  shardings = mesh.state_sharding(mesh.make_mesh(1, jax.device_count()), shapes)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings,
  )
  place = weights.place_like(abstract)
  # Imports and traces what reading needs.
  weights.Published(path, num_heads=model.num_heads)
  memory = _HostMemory()

  def counted(name: str, array: np.ndarray) -> jax.Array:
    memory.sample()
    memory.on_devices += array.nbytes  # A copy on the way is not counted twice.
    return jax.block_until_ready(place(name, array))

  def describe(variables: Variables) -> harness.Row:
    memory.done = True
    leaves = jax.tree.leaves(variables)
    device = Counter[jax.Device]()
    for leaf in leaves:
      for shard in leaf.addressable_shards:
        device[shard.device] += shard.data.nbytes
    largest = max(leaf.nbytes for leaf in leaves)
    return {
      "largest leaf MiB": largest / 2**20,
      "host peak MiB": memory.peak / 2**20,
      "of the leaf": memory.peak / largest,
      "largest device": max(device.values()) / sum(x.nbytes for x in leaves),
    }

  memory.start()
  return harness.timed(
    lambda: weights.load_for(model, _SHAPE, path, place=counted),
    describe=describe,
  )


def run(args: argparse.Namespace) -> harness.Report:
  """Measures both forms of the blocks."""
  if args.width % 88:
    raise ValueError(f"--width={args.width}: expected a multiple of 88")
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "vit.safetensors")
    harness.in_process(_write, args, str(path))
    cases = [
      harness.Case(
        f"scan_layers={scan}",
        functools.partial(harness.in_process, _read, args, str(path), scan),
      )
      for scan in (True, False)
    ]
    rows = harness.measure(
      cases, rounds=args.rounds, columns=harness.SECONDS, compare=False
    )
    size = path.stat().st_size
  return harness.Report(rows, {"file": f"{size / 2**30:.3f} GiB"})
