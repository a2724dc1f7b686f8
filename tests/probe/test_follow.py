"""A probe that follows a training, each in its own process."""

import json
import subprocess
import sys

import pytest
from train.runs import ROOT, environment, start

SMALL = {
  "probe.probes": ("linear",),
  "probe.label_fractions": (),
  "probe.seeds": 1,
  "probe.linear_l2_values": (1e-3,),
  "probe.linear_max_iterations": 20,
}


@pytest.mark.slow
def test_a_training_that_deletes_faster_than_the_probe_reads(tmp_path):
  """Both end, and the last checkpoint is probed."""
  steps = {"train.steps": 40, "checkpoint.every_steps": 1}
  training = start(tmp_path, **SMALL, **steps, **{"checkpoint.keep_last": 2})
  probe = subprocess.run(
    [
      *(sys.executable, "-m", "jssl.probe"),
      *(f"--workdir={tmp_path}", "--follow"),
    ],
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  _, errors = training.communicate(timeout=600)
  assert training.returncode == 0, errors
  assert probe.returncode == 0, probe.stderr
  assert "damaged" not in probe.stdout + probe.stderr
  lines = (tmp_path / "probe.jsonl").read_text().splitlines()
  probed = {json.loads(line)["step"] for line in lines}
  assert 40 in probed
