"""What preflight says of a run is what the real processes of one compile."""

import json
import re
import subprocess
import sys

import pytest
from processes import ROOT, ends, start

from jssl import checkpoint

FLAGS = [
  "--config=configs/quickstart.py",
  "--config.data.batch_size=32",
  # Large enough to be split.
  "--config.model.width=128",
  "--config.model.depth=1",
  "--config.mesh.fsdp=2",
  "--config.train.steps=4",
  "--config.optim.warmup_steps=1",
]

# As a run's own process: joined, with devices of all of them.
COMPILE = """
import json, sys
from jssl.preflight import targets
from jssl.runtime import distributed
distributed.initialize()
import jax
from jssl.config import command_line
from jssl.config.schema import Config
from jssl.preflight.programs import programs
from jssl.preflight.requirements import measure

assert len(jax.local_devices()) < len(jax.devices()) == 8
path, *overrides = sys.argv[1:]
config = command_line.load(path.partition("=")[2], overrides, Config)
plan, (step, _) = programs(config, jax.devices())
step = measure(step, targets.target("cpu:8"), plan.mesh)
print("FOUND", json.dumps({
  "flops": step.product_flops,
  "arguments": step.memory.arguments,
  "peak": step.memory.peak,
  "collectives": [[c.kind, c.axes, c.times] for c in step.collectives],
  "checkpoint_bytes": plan.checkpoint_bytes,
}))
"""


@pytest.fixture(scope="module")
def preflight(tmp_path_factory):
  path = tmp_path_factory.mktemp("preflight") / "json"
  done = subprocess.run(
    [
      *(sys.executable, "-m", "jssl.preflight", "--target=cpu:8"),
      *(f"--json={path}", *FLAGS),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_what_several_processes_compile(preflight, count):
  status, said = ends(start(count, ["-c", COMPILE, *FLAGS]))
  assert status == [0] * count, "\n".join(said)
  step = preflight["programs"][0]
  for own in said:
    found = json.loads(re.search(r"^FOUND (.*)$", own, re.MULTILINE).group(1))
    assert found["flops"] == step["product_flops"]
    assert found["arguments"] == step["memory"]["arguments"]
    assert found["peak"] == step["memory"]["peak"]
    collectives = [
      [one["kind"], one["axes"], one["times"]] for one in step["collectives"]
    ]
    assert found["collectives"] == collectives
    assert found["checkpoint_bytes"] == preflight["checkpoint_bytes"]


@pytest.mark.slow
def test_the_size_of_a_checkpoint_is_that_on_the_disk(preflight, tmp_path):
  arguments = ["-m", "jssl.train", "--distributed", f"--workdir={tmp_path}/W"]
  status, said = ends(start(2, [*arguments, *FLAGS]))
  assert status == [0, 0], "\n".join(said)
  assert checkpoint.steps(tmp_path / "W") == [4]
  files = (tmp_path / "W/checkpoints/4").rglob("*")
  on_disk = sum(path.stat().st_size for path in files if path.is_file())
  print(on_disk, preflight["checkpoint_bytes"])
  assert 0.9 < on_disk / preflight["checkpoint_bytes"] < 1.1
