"""Published weights against the outputs of the libraries that define them."""

import json
import os
import pathlib
import subprocess

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jssl import weights
from tests.models.test_vit import jit

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "weights"
FOLDERS = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())


def expected(name):
  return json.loads((FIXTURES / name / "expected.json").read_text())


def outputs(name):
  return load_file(FIXTURES / expected(name)["outputs"] / "outputs.safetensors")


def load(name, **fields):
  facts = expected(name)
  for key in ("mean", "std"):
    fields[key] = tuple(facts[key])
  if facts["num_heads"]:
    fields["num_heads"] = facts["num_heads"]
  report = weights.Published(FIXTURES / name, **fields).report
  return *weights.load(FIXTURES / name, **fields), report


def trees_equal(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", FOLDERS)
def test_outputs_equal_those_of_the_library(name):
  model, variables, report = load(name)
  truth = outputs(name)
  backbone = model.backbone()
  tokens = backbone.grid((*truth["images_native"].shape[2:], 3)) is not None
  compared = 0
  for size in ("native", "other"):
    images = truth[f"images_{size}"].transpose(0, 2, 3, 1)
    encoded, _ = jit(
      lambda v, x: backbone.apply(v, x, train=False, tokens=tokens)
    )(variables, images)
    found = {"tokens": encoded.tokens, "pooled": encoded.pooled}
    if getattr(model, "pooling", "") == "cls":
      found["cls"] = encoded.pooled
    for kind, value in found.items():
      if f"{size}/{kind}" in truth and value is not None:
        wanted = truth[f"{size}/{kind}"]
        error = np.abs(value - wanted).max() / np.abs(wanted).max()
        assert error <= 5e-6, (size, kind)
        compared += 1
  assert compared >= 2
  assert report.used


@pytest.mark.parametrize("name", FOLDERS)
def test_files_survive_a_round_trip_bit_for_bit(name, tmp_path):
  layout = expected(name)["layout"]
  model, variables, report = load(name)
  weights.save(model, variables, tmp_path / "out", layout=layout)
  again, same = weights.load(tmp_path / "out")
  assert again == model
  trees_equal(same, variables)
  before = load_file(FIXTURES / name / "model.safetensors")
  after = load_file(tmp_path / "out" / "model.safetensors")
  used = {tensor for names in report.used.values() for tensor in names}
  for tensor in used:
    own = tensor.removeprefix(report.prefix)
    np.testing.assert_array_equal(after[own], before[tensor])
    assert after[own].shape == before[tensor].shape


@pytest.mark.slow
@pytest.mark.skipif(
  "JSSL_TORCH_PYTHON" not in os.environ,
  reason="JSSL_TORCH_PYTHON names no interpreter with torch",
)
@pytest.mark.parametrize("name", FOLDERS)
def test_the_library_loads_what_was_written(name, tmp_path):
  layout = expected(name)["layout"]
  model, variables, _ = load(name)
  weights.save(model, variables, tmp_path / "out", layout=layout)
  source = FIXTURES / expected(name)["outputs"] / "outputs.safetensors"
  subprocess.run(
    [
      os.environ["JSSL_TORCH_PYTHON"],
      FIXTURES / "check.py",
      *(layout, tmp_path / "out", source, tmp_path / "outputs.safetensors"),
    ],
    check=True,
  )
  truth, found = outputs(name), load_file(tmp_path / "outputs.safetensors")
  kinds = {"native/tokens", "native/pooled", "native/cls"} & set(truth)
  assert kinds
  for kind in kinds & set(found):
    near = np.abs(truth[kind]).max() * 5e-6
    np.testing.assert_allclose(found[kind], truth[kind], atol=near)
  assert kinds & set(found)
