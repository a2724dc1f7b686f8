"""Heads of official training files against their logits."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jssl import weights
from jssl.losses.rows import l2_normalize
from jssl.models import Head, Prototypes
from jssl.models.tokens import Grid, Spec
from jssl.objectives import OBJECTIVES
from tests.weights.test_published import FIXTURES

HEAD = Head((32, 32), 16, norm=False, activation="gelu_erf")
LAYER = Prototypes(40, "none")
SPEC = Spec(24, Grid(4, 4, 24, 4), 3)
# Head, prototypes and their outputs in the file, by folder.
CASES = {
  "official_dino_training": {"projector": ("prototypes", "head", "cls")},
  "official_ibot": {
    "projector": ("prototypes", "head", "cls"),
    "patch_projector": ("patch_prototypes", "patch_head", "tokens"),
  },
  "official_dinov2_training": {
    "projector": ("prototypes", "dino_head", "cls"),
    "patch_projector": ("patch_prototypes", "ibot_head", "tokens"),
  },
}
METHODS = {
  "official_dino_training": "dino",
  "official_ibot": "ibot",
  "official_dinov2_training": "dinov2",
}

# Folders whose features the heads were given.
FEATURES = {
  "official_dino_training": "official_dino",
  "official_ibot": "official_dino",
  "official_dinov2_training": "official_dinov2",
}


def objective(folder, **changes):
  fields = {"projector": HEAD, "prototypes": LAYER}
  if METHODS[folder] != "dino":
    fields |= {"patch_projector": HEAD, "patch_prototypes": LAYER}
    fields["shared_head"] = False
  return OBJECTIVES[METHODS[folder]](**(fields | changes))


def load(folder, method):
  params, state = method.init(jax.random.key(0), SPEC)
  path = FIXTURES / folder / "model.safetensors"
  return weights.load_heads(method, params, state, path)


@pytest.mark.parametrize("folder", CASES)
def test_logits_equal_those_of_the_official_head(folder):
  method = objective(folder)
  params, state = load(folder, method)
  truth = load_file(FIXTURES / folder / "outputs.safetensors")
  features = load_file(FIXTURES / FEATURES[folder] / "outputs.safetensors")
  for head, (layer, output, kind) in CASES[folder].items():
    z = HEAD.evaluate(params[head], {}, features[f"native/{kind}"])
    logits = l2_normalize(z) @ params[layer].T
    wanted = truth[f"native/teacher/{output}"]
    near = np.abs(wanted).max() * 5e-6
    np.testing.assert_allclose(logits, wanted, atol=near)
  assert set(params) == set(state["teacher"])
  jax.tree.map(np.testing.assert_array_equal, params, state["teacher"])


@pytest.mark.parametrize(
  ("folder", "changes", "match"),
  [
    (
      "official_dino_training",
      {"prototypes": Prototypes(40, "weight")},
      r"objective.prototypes.norm='weight': .* norms from",
    ),
    (
      "official_dino_training",
      {"projector": dataclasses.replace(HEAD, activation="gelu")},
      r"objective.projector.activation='gelu'",
    ),
    (
      "official_dino_training",
      {"prototypes": Prototypes(8, "none")},
      r"objective.prototypes has a layer of shape \[8, 16\], \[40, 16\] in the",
    ),
    (
      "official_ibot",
      {"shared_head": True},
      r"head.last_layer2\): set objective.shared_head=False",
    ),
  ],
)
def test_another_head_is_refused(folder, changes, match):
  with pytest.raises(ValueError, match=match):
    load(folder, objective(folder, **changes))


def test_a_file_without_heads_is_refused():
  method = objective("official_dino_training")
  with pytest.raises(
    ValueError, match=r"no tensors for the head 'proj.*heads="
  ):
    load("official_dinov2", method)


def test_a_shared_layer_has_two_names(tmp_path):
  """The official code of iBOT stores it as last_layer and last_layer2."""
  tensors = load_file(FIXTURES / "official_ibot" / "model.safetensors")
  for name in list(tensors):
    if "last_layer2" in name:
      tensors[name] = tensors[name.replace("last_layer2", "last_layer")]
  save_file(tensors, tmp_path / "model.safetensors")
  method = objective("official_ibot", shared_head=True)
  params, state = method.init(jax.random.key(0), SPEC)
  found, _ = weights.load_heads(method, params, state, tmp_path)
  assert set(found) == {"projector", "prototypes"}
  expected, _ = load("official_ibot", objective("official_ibot"))
  np.testing.assert_array_equal(found["prototypes"], expected["prototypes"])
