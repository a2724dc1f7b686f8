"""What the losses need on a TPU pod, as its compiler says.

Working memory of a chip: the peak less arguments and outputs, for the value and
all gradients. In a process of its own, since the compiler reads its settings
when JAX is imported.
"""

import json
import math
import pathlib
import re
import subprocess
import sys

import pytest

import jssl

ROOT = pathlib.Path(jssl.__file__).parents[1]

COMPILE = """
import json, sys
from jssl.preflight import cost, targets
from jssl.runtime.flops import product_flops
of = targets.target(json.loads(sys.argv[1])[1])
of.prepare()
import jax, jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from jssl import losses

def info_nce(x, y):
  return losses.info_nce(x, y, temperature=0.1, symmetric=True)

def nt_xent(x, y):
  return losses.nt_xent(x, y, temperature=0.1)

def vicreg(x, y):
  return losses.vicreg(
    x, y, invariance_weight=25., variance_weight=25., covariance_weight=1.
  )

def barlow_twins(x, y):
  return losses.barlow_twins(x, y, off_diagonal_weight=5e-3)

def dino(s, t, w, v, c):
  return losses.dino(
    s, t, w, v, c, student_temperature=0.1, teacher_temperature=0.04
  )

loss, target, shapes, batch = json.loads(sys.argv[1])
devices = of.devices()
mesh = Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
shardings = [
  NamedSharding(mesh, P() if dim is None else P(*[None] * dim, "data"))
  for dim in batch
]
args = [
  jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)
  for shape, sharding in zip(shapes, shardings)
]
step = jax.value_and_grad(globals()[loss], argnums=tuple(range(len(args))))
traced = jax.jit(
  step, out_shardings=(NamedSharding(mesh, P()), tuple(shardings))
).trace(*args)
compiled = traced.lower().compile()
memory = compiled.memory_analysis()
print(json.dumps({
  "devices": len(devices),
  "working_mib": (
    memory.peak_memory_in_bytes - memory.argument_size_in_bytes
    - memory.output_size_in_bytes
  ) / 2**20,
  "product_flops": product_flops(traced.jaxpr.jaxpr),
  "received": cost.collectives(compiled.as_text(), len(devices)),
  "text": compiled.as_text(),
}))
"""


OBJECTIVE = """
import json, sys
sys.path.insert(0, "tests")
from jssl.preflight import targets
name, arg, target, images = json.loads(sys.argv[1])
of = targets.target(target)
of.prepare()
import jax, jax.numpy as jnp
import shipped
from jax.sharding import NamedSharding, PartitionSpec as P
from jssl.config.build import build
from jssl.models import init_variables
from jssl.objectives.encode import make_encoder, rows_of
from jssl.train.init import Program

config = shipped.config(name, arg, **{"data.batch_size": images})
run = build(config, source=shipped.Shapes(config.data), devices=of.devices())
by_image = NamedSharding(run.mesh, P(None, ("data", "fsdp")))
state = Program(run).abstract_state

def encoded():
  variables = init_variables(0, run.backbone, run.image_shape)
  pixels = jnp.zeros((images, *run.source.image_shape), jnp.uint8)
  encoder = make_encoder(run.backbone, config.augment, run.objective)
  return encoder(variables, (variables,), rows_of(pixels, jax.random.key(0), 0))

features = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_image),
  jax.eval_shape(encoded).features,
)

def step(head_params, state, features, at):
  def loss(head_params, student):
    return run.objective.loss(
      head_params, state, features._replace(student=student),
      key=jax.random.key(0), step=at,
    )
  return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
    head_params, features.student
  )

compiled = jax.jit(step).lower(
  state.head_params, state.objective, features, state.step
).compile()
memory = compiled.memory_analysis()
print(json.dumps({
  "peak_mib": memory.peak_memory_in_bytes / 2**20,
  "arguments_mib": memory.argument_size_in_bytes / 2**20,
  "text": compiled.as_text(),
}))
"""


def compiled(*arguments, program=COMPILE):
  done = subprocess.run(
    [sys.executable, "-c", program, json.dumps(arguments)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  needs = json.loads(done.stdout.splitlines()[-1])
  units = {k: v for k, v in needs.items() if k != "text"}
  print(f"\n{arguments}, per chip: {units}")
  return needs


def arrays(text):
  """Returns the shapes of all arrays in a program."""
  return {
    tuple(map(int, dims.split(",")))
    for dims in re.findall(r"\b(?:pred|[a-z]+\d+\w*)\[(\d[\d,]*)\]", text)
  }


@pytest.mark.slow
def test_info_nce_of_a_large_batch():
  rows, width = 131_072, 768
  needs = compiled("info_nce", "v5e:2x4", [(rows, width)] * 2, (0, 0))
  assert needs["devices"] == 8
  assert needs["working_mib"] <= 128
  unit = 2 * rows**2 * width / 8
  assert needs["product_flops"] <= 4 * unit


@pytest.mark.slow
def test_info_nce_of_a_million():
  shapes = [(2**20, 768)] * 2
  assert compiled("info_nce", "v5e:16x16", shapes, (0, 0))["working_mib"] <= 64


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["info_nce", "nt_xent"])
def test_what_a_chip_holds_is_the_same_on_8_256_and_512(loss):
  """With as many rows on each: they go round, and none are gathered."""
  rows, width = 2048, 768
  found = {}
  for target, chips in {
    "v5e:2x4": 8,
    "v5e:16x16": 256,
    "2xv5e:16x16": 512,
  }.items():
    needs = compiled(loss, target, [(rows * chips, width)] * 2, (0, 0))
    assert needs["devices"] == chips
    found[chips] = needs
  working = [needs["working_mib"] for needs in found.values()]
  assert max(working) <= 1.05 * working[0]
  # What comes by grows with the chips, by the same for each.
  passed = [
    needs["received"]["collective-permute"] / chips
    for chips, needs in found.items()
  ]
  assert max(passed) < 1.01 * min(passed)
  assert all("all-gather" not in needs["received"] for needs in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["vicreg", "barlow_twins"])
def test_wide_covariances(loss):
  needs = compiled(loss, "v5e:2x4", [(2048, 8192)] * 2, (0, 0))
  assert needs["working_mib"] <= 64
  assert not [s for s in arrays(needs["text"]) if s.count(8192) > 1]


@pytest.mark.slow
def test_many_prototypes():
  k, d, chips = 65_536, 256, 8
  shapes = [(10, 1024 * chips, d), (2, 1024 * chips, d), (k, d), (k, d), (k,)]
  needs = compiled("dino", "v5e:2x4", shapes, (1, 1, None, None, None))
  # Prototypes, their gradients, and up to eight numbers of each.
  long = {shape for shape in arrays(needs["text"]) if k in shape}
  assert (k, d) in long
  numbers = {(k,), *((n, k) for n in range(1, 9))}
  assert long <= {(k, d), *numbers}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["learned", "rope"])
def test_prototypes_of_patches(variant):
  """DINOv2 with its gradient: no tokens by prototypes, by either centring."""
  images, k, d = 1024, 65_536, 256
  arguments = "dinov2_imagenet", variant, "v5e:16x16", images
  found = arrays(compiled(*arguments, program=OBJECTIVE)["text"])
  assert (k, d) in found
  # Beside prototypes and their gradients, up to eight numbers of each.
  assert {math.prod(s) // k for s in found if k in s} <= {*range(9), d}
  # Nor under other shapes: a chip has 1568 tokens.
  assert max(map(math.prod, found)) == k * d
