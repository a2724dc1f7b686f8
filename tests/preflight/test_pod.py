"""Preflight of the ImageNet configs for TPU pods (the `preflight` extra)."""

import json
import subprocess
import sys

import pytest

GIB = 2**30


def preflight(path, *arguments):
  done = subprocess.run(
    [sys.executable, "-m", "jssl.preflight", *arguments, f"--json={path}"],
    capture_output=True,
    text=True,
    check=False,
  )
  print(done.stdout)
  assert done.returncode in (0, 3), done.stderr
  found = json.loads(path.read_text())
  assert found["fits"] == (done.returncode == 0)
  return found


@pytest.mark.slow
def test_simclr_fits_a_v5e_pod(tmp_path):
  found = preflight(
    tmp_path / "json",
    "--config=configs/simclr_imagenet.py",
    "--target=v5e:16x16",
  )
  assert found["mesh"] == {"data": 256, "fsdp": 1}
  assert found["hosts"] == 64
  step, features = found["programs"]
  assert found["fits"]
  assert step["memory"]["peak"] < 1.6 * GIB
  assert features["memory"]["peak"] < step["memory"]["peak"]
  # All of what lies there is explained, up to what shares memory.
  lines = step["memory"]["lines"]
  together = step["memory"]["arguments"] + sum(line["bytes"] for line in lines)
  assert 0.85 < together / step["memory"]["peak"] < 1.15
  assert lines[0]["place"].startswith("jssl/models/")
  assert step["bound"]["bound_by"] == "HBM"
  # A sum of gradients, and BatchNorm's: two for each of its 54 layers.
  reductions = [t for t in step["traffic"] if t["kind"] == "all-reduce"]
  assert sum(t["instructions"] for t in reductions) < 2 * 54 + 10


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_a_change_that_does(tmp_path):
  found = preflight(
    tmp_path / "json",
    "--config=configs/simclr_imagenet.py",
    "--target=v5e:2x2",
    "--config.data.batch_size=2048",
  )
  assert not found["fits"]
  assert found["tried"][-1]["fits"]
  assert "train.chunks" in found["tried"][-1]["changes"]
