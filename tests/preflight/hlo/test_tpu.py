"""A TPU's program whose parameters are split (the `preflight` extra).

Layers that are scanned over, their weights split over `fsdp`: what has to be
sent, moved and kept follows from their shapes.
"""

import collections
import subprocess
import sys

import pytest

from jssl.preflight.hlo import buffers, collectives, memory, text, trip_counts

LAYERS, ROWS, WIDTH, HIDDEN = 12, 2048, 512, 2048
DATA = FSDP = 2
# Bytes in bfloat16, of a device: of one of a layer's two weights, whole, and of
# a layer's activations.
WEIGHT = 2 * WIDTH * HIDDEN
NARROW, WIDE = 2 * ROWS * WIDTH, 2 * ROWS * HIDDEN

PROGRAM = f"""
import sys
from jssl import mesh
from jssl.preflight import targets
target = targets.target("v5e:2x2")
target.prepare()
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
made = mesh.make_mesh({DATA}, {FSDP}, target.devices())

def of(shape, *spec):
  sharding = NamedSharding(made, P(*spec))
  return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)

up = of(({LAYERS}, {WIDTH}, {HIDDEN}), None, None, "fsdp")
down = of(({LAYERS}, {HIDDEN}, {WIDTH}), None, "fsdp", None)
x = of(({ROWS} * {DATA * FSDP}, {WIDTH}), ("data", "fsdp"))

def loss(weights, x):
  def layer(x, weights):
    up, down = weights
    return x + jnp.tanh(x @ up) @ down, None
  x, _ = jax.lax.scan(layer, x, weights)
  return jnp.sum(x.astype(jnp.float32) ** 2)

split = jax.tree.map(lambda w: w.sharding, (up, down))
step = jax.jit(jax.grad(loss), out_shardings=split)
compiled = step.lower((up, down), x).compile()
stats = compiled.memory_analysis()
with open(sys.argv[1], "w") as file:
  file.write(compiled.as_text())
print(stats.temp_size_in_bytes)
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
  """The program as data, and the compiler's size of its temporaries."""
  pytest.importorskip("libtpu")
  path = tmp_path_factory.mktemp("tpu") / "program.hlo"
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(path)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return text.parse(path.read_text()), int(done.stdout.split()[-1])


@pytest.mark.slow
def test_what_is_sent_along_which_axes(compiled):
  module, _ = compiled
  times, sent = collections.Counter(), collections.Counter()
  mesh = {"data": DATA, "fsdp": FSDP}
  for one in collectives.collectives(module, mesh):
    key = one.kind, one.axes
    times[key] += one.times
    sent[key] += one.sent_bytes
  # Both weights of a layer are gathered forward and backward, and a device
  # lacks half of each.
  gather = "all-gather", ("fsdp",)
  assert times[gather] == 4 * LAYERS
  assert sent[gather] == 4 * LAYERS * WEIGHT // 2
  # Gradients of both: a device keeps half, and sums that over `data`.
  scatter = "reduce-scatter", ("fsdp",)
  assert sent[scatter] == 2 * LAYERS * WEIGHT // 2
  summed = "all-reduce", ("data",)
  assert sent[summed] == 2 * LAYERS * WEIGHT // 2
  assert set(sent) == {gather, scatter, summed}


@pytest.mark.slow
def test_loops_and_memory(compiled):
  module, temporaries = compiled
  loops = [i for i in module.by_name.values() if i.opcode == "while"]
  trips = [trip_counts.trip_count(module, loop) for loop in loops]
  assert trips == [LAYERS, LAYERS]
  # Arguments and what is given back apart, it is what the compiler says.
  total = sum(b.array.bytes for b in memory.live_at_peak(module))
  results = 2 * LAYERS * WEIGHT // 2
  assert abs(total - results - temporaries) < 0.2 * temporaries


@pytest.mark.slow
def test_what_is_moved(compiled):
  module, _ = compiled
  moved = buffers.hbm_bytes(module)
  # At least: what is kept of each layer is written once and read once.
  assert moved > 2 * LAYERS * NARROW
  # At most: each product has its operands and its result there.
  product = NARROW + WIDE + WEIGHT
  assert moved < LAYERS * 6 * 2 * product
  # No stack is moved whole at each of its layers.
  whole = LAYERS * min(NARROW, WEIGHT // 2)
  bodies = {
    loop.attribute("body")
    for loop in module.by_name.values()
    if loop.opcode == "while"
  }
  accesses = buffers.accesses(module)
  for body in bodies:
    for instruction in module.computations[body]:
      if instruction.opcode == "fusion":
        found = accesses[instruction.name]
        assert max((*found.read, *found.written)) < whole
