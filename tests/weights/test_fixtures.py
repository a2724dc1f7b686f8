import json
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).parents[1] / "fixtures" / "weights"
FAMILIES = sorted(path.parent.name for path in ROOT.glob("*/expected.json"))


def expected(family):
  return json.loads((ROOT / family / "expected.json").read_text())


def test_the_files_are_small():
  sizes = [path.stat().st_size for path in ROOT.rglob("*.*")]
  assert max(sizes) < 300_000
  assert sum(sizes) < 4_000_000


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_has_weights_and_outputs_of_every_size(family):
  facts = expected(family)
  with safe_open(ROOT / family / "model.safetensors", "numpy") as file:
    assert file.metadata() == {"format": "pt"}
    names = list(file.keys())
  prefixes = [*facts.get("prefixes", [""]), *facts.get("twins", {})]
  for prefix in prefixes:
    assert any(name.startswith(prefix) for name in names), prefix
  for twin in facts.get("twins", {}).values():
    assert twin in FAMILIES
  outputs = load_file(ROOT / facts["outputs"] / "outputs.safetensors")
  own = ROOT / family / "outputs.safetensors"
  if own.exists():
    assert all(np.ptp(v) > 1e-3 for v in load_file(own).values())
  sizes = [name[7:] for name in outputs if name.startswith("images_")]
  assert {"native", "other"} <= set(sizes)
  assert set(facts.get("sizes", sizes)) <= set(sizes)
  for size in sizes:
    images = outputs[f"images_{size}"]
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    parts = {name for name in outputs if name.startswith(f"{size}/")}
    assert parts & {f"{size}/cls", f"{size}/pooled", f"{size}/tokens"}
    for part in parts:
      assert np.isfinite(outputs[part]).all(), part
      assert len(outputs[part]) == len(images)
      assert np.ptp(outputs[part], axis=0).max() > 1e-3, part


@pytest.mark.parametrize("family", FAMILIES)
def test_q_k_v_and_heads_differ(family):
  heads = expected(family)["num_heads"]
  kernels = [
    value
    for name, value in load_file(ROOT / family / "model.safetensors").items()
    if re.search(r"\b(qkv|query|key|value|[qkv]_proj)\.weight$", name)
    and not re.search("decoder|predictor", name)
  ]
  if heads is None:
    assert not kernels
    return
  rows = np.concatenate(
    [
      kernel.reshape(-1, kernel.shape[1] // heads * kernel.shape[1])
      for kernel in kernels
    ]
  )
  assert len(rows) >= 2 * 3 * heads
  assert len(np.unique(rows, axis=0)) == len(rows)


needs_torch = pytest.mark.skipif(
  "JSSL_TORCH_PYTHON" not in os.environ,
  reason="JSSL_TORCH_PYTHON names no interpreter with torch",
)


def run_script(name, *arguments, check=True):
  command = [os.environ["JSSL_TORCH_PYTHON"], ROOT / name, *arguments]
  return subprocess.run(command, check=check, capture_output=True, text=True)


@pytest.mark.slow
@needs_torch
def test_the_script_makes_the_same_files(tmp_path):
  run_script("make.py", tmp_path)
  made = {path.relative_to(tmp_path) for path in tmp_path.glob("*/*")}
  assert made == {path.relative_to(ROOT) for path in ROOT.glob("*/*.*s*")}
  for path in sorted(made):
    if path.name == "model.safetensors":
      assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes(), path
    elif path.name == "outputs.safetensors":
      values, found = load_file(ROOT / path), load_file(tmp_path / path)
      assert values.keys() == found.keys()
      for name, value in values.items():
        # Sums are of another order on another processor.
        np.testing.assert_allclose(
          found[name], value, rtol=0, atol=2e-6 * abs(value).max()
        )
    else:
      assert json.loads((tmp_path / path).read_text()) == json.loads(
        (ROOT / path).read_text()
      )


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize(
  ("family", "name"),
  [
    ("timm_dinov3", "norm.weight"),
    ("hf_vit_mae", "vit.layernorm.weight"),
    ("resnet18", "layer4.1.bn2.weight"),
  ],
)
def test_the_libraries_load_strictly(family, name, tmp_path):
  layout = expected(family)["layout"]
  images, out = ROOT / family / "outputs.safetensors", tmp_path / "out"
  run_script("check.py", layout, ROOT / family, images, out)
  values, found = load_file(images), load_file(out)
  assert len(found) >= 2
  for part, value in found.items():
    atol = 2e-6 * abs(value).max()
    np.testing.assert_allclose(value, values[part], rtol=0, atol=atol)
  folder = tmp_path / family
  shutil.copytree(ROOT / family, folder)
  tensors = load_file(folder / "model.safetensors")
  del tensors[name]
  save_file(tensors, folder / "model.safetensors", {"format": "pt"})
  done = run_script("check.py", layout, folder, images, out, check=False)
  assert done.returncode != 0
  assert name in done.stderr
