"""The real step of configs/simclr_imagenet.py, compiled for a TPU pod.

XLA's TPU compiler runs on any machine (the `preflight` extra has it). In a
process of its own, since it reads its settings when JAX is imported.
"""

import json
import pathlib
import subprocess
import sys

import pytest

import jssl

ROOT = pathlib.Path(jssl.__file__).parents[1]

COMPILE = """
from jssl import cost
cost.prepare_environment()
import json, runpy
import jax
from jssl import build
from jssl.train.program import Program

class ImageNet:
  image_shape = (256, 256, 3)
  def __len__(self):
    return 1_281_167

config = runpy.run_path("configs/simclr_imagenet.py")["get_config"]()
chips = cost.devices("v5e:16x16")
run = build.run(config, train_source=ImageNet(), devices=chips)
program = Program(run)
size = (run.data.batch_size, *ImageNet.image_shape)
batch = {
  "image": jax.ShapeDtypeStruct(size, "uint8", sharding=program.batch_sharding),
  "label": jax.ShapeDtypeStruct(
    size[:1], "int32", sharding=program.batch_sharding
  ),
}
compiled = program.step.lower(program.abstract_state, batch).compile()
memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
print(json.dumps({
  "devices": run.mesh.size,
  "peak_gib": memory.peak_memory_in_bytes / 2**30,
  "arguments_gib": memory.argument_size_in_bytes / 2**30,
  "gflop": cost["flops"] / 1e9,
  "gb_accessed": cost["bytes accessed"] / 1e9,
}))
"""


@pytest.mark.slow
def test_the_imagenet_step_fits_a_v5e_pod():
  done = subprocess.run(
    [sys.executable, "-c", COMPILE],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  figures = json.loads(done.stdout.splitlines()[-1])
  print("\nsimclr_imagenet on v5e:16x16, per chip:", figures)
  assert figures["devices"] == 256
  assert figures["peak_gib"] < 2
