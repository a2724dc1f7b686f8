"""Preflight of the ImageNet configs for TPU pods (the `preflight` extra)."""

import json
import subprocess
import sys
from importlib.util import find_spec

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
  assert step["memory"]["peak"] < 1.5 * GIB
  assert features["memory"]["peak"] < step["memory"]["peak"]
  # All of what lies there is explained, up to what shares memory.
  lines = step["memory"]["lines"]
  together = step["memory"]["arguments"] + sum(line["bytes"] for line in lines)
  assert 0.85 < together / step["memory"]["peak"] < 1.15
  assert lines[0]["location"].startswith("jssl/models/")
  assert step["bound"]["bound_by"] == "HBM"
  # A sum of gradients, and BatchNorm's: for each of its 54 layers, mean and
  # variance together, and one in the backward pass.
  reductions = [t for t in step["collectives"] if t["kind"] == "all-reduce"]
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
  assert found["attempts"][-1]["fits"]
  assert "train.chunks" in found["attempts"][-1]["changes"]


@pytest.mark.slow
def test_blocks_computed_anew_are_a_change_that_fits(tmp_path):
  found = preflight(
    tmp_path / "json",
    "--config=configs/moco_v3_imagenet.py",
    "--target=v5e:2x2",
    "--config.data.batch_size=2048",
    "--config.model.scan_layers=True",
  )
  assert not found["programs"][0]["fits"]
  assert found["attempts"][-1]["fits"]
  assert found["attempts"][-1]["changes"] == {"model.remat": "block"}


@pytest.mark.slow
def test_a_vit_is_bound_by_flops(tmp_path):
  """Neither attention nor norms and activations limit the step."""
  found = preflight(
    tmp_path / "json",
    "--config=configs/moco_v3_imagenet.py",
    "--target=v5e:2x4",
    "--config.data.batch_size=512",
    "--config.model.width=768",
    "--config.model.scan_layers=True",
  )
  step = found["programs"][0]
  assert step["bound"]["bound_by"] == "FLOPs"
  assert step["bound"]["efficiency"] == 1
  attention = [t for t in step["traffic"] if "attention_" in t["op_name"]]
  moved = sum(line["read"] + line["written"] for line in attention)
  assert 0 < moved < 0.2 * step["hbm_bytes"]


@pytest.mark.slow
def test_split_parameters_are_a_change_that_fits(tmp_path):
  """A ViT-H whose parameters, moments and teacher take most of a chip."""
  found = preflight(
    tmp_path / "json",
    "--config=configs/dino_imagenet.py:vit_l",
    "--target=v5e:2x4",
    "--config.data.batch_size=48",
    "--config.mesh.fsdp=1",
    "--config.augment.num_small=0",
    "--config.model.width=1280",
    "--config.model.depth=32",
  )
  assert not found["programs"][0]["fits"]
  assert found["attempts"][-1]["fits"]
  assert found["attempts"][-1]["changes"] == {"mesh.data": 2, "mesh.fsdp": 4}


@pytest.mark.slow
def test_a_step_over_several_slices(tmp_path):
  """Gradients are summed over both; what is split stays within one."""
  found = preflight(
    tmp_path / "json",
    "--config=configs/quickstart.py",
    "--target=2xv5e:2x4",
    "--config.mesh.fsdp=4",
    "--config.model.width=256",
  )
  assert found["fits"]
  assert found["slices"] == 2
  assert found["mesh"] == {"data": 4, "fsdp": 4}
  traffic = found["programs"][0]["collectives"]
  crossing = [one for one in traffic if one["crosses_slices"]]
  # No chip has less of the gradients than its part of them to send there.
  parameters = found["sizes"]["parameters"]
  assert sum(one["sent_bytes"] for one in crossing) > parameters / 4
  # Sums over both are scattered and gathered again; parameters are gathered
  # within a slice.
  within = [one for one in traffic if one["axes"] == ["fsdp"]]
  assert not any(one["crosses_slices"] for one in within)
  gathered = {
    tuple(one["axes"]): one["received_bytes"]
    for one in traffic
    if one["kind"] == "all-gather"
  }
  assert max(gathered, key=lambda axes: gathered[axes]) == ("fsdp",)


@pytest.mark.slow
@pytest.mark.skipif(
  find_spec("jax_cuda12_plugin") is None,
  reason='XLA:GPU isn\'t installed: pip install "jssl[cuda12]"',
)
def test_a_step_for_a_node_of_gpus(tmp_path):
  found = preflight(
    tmp_path / "json",
    "--config=configs/moco_v3_imagenet.py",
    "--target=h100:8",
    "--config.data.batch_size=1024",
    "--config.model.scan_layers=True",
  )
  assert found["fits"]
  assert found["mesh"] == {"data": 8, "fsdp": 1}
  step, _ = found["programs"]
  assert step["memory"]["arguments"] < step["memory"]["peak"]
  assert step["memory"]["kinds"]["activations"] > 0
  assert step["bound"] is not None
  assert any(one["kind"] == "all-reduce" for one in step["collectives"])


@pytest.mark.slow
def test_dino_of_a_vit_l_fits_a_v5p_slice(tmp_path):
  """Its 8 devices of axis fsdp are no whole sides of 4 x 4 x 4 chips."""
  found = preflight(
    tmp_path / "json",
    "--config=configs/dino_imagenet.py:vit_l",
    "--target=v5p:4x4x4",
  )
  assert found["mesh"] == {"data": 8, "fsdp": 8}
  assert found["fits"]
