"""Runs that start from published weights."""

import dataclasses
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from shipped import config
from train.runs import TINY, rows

from jssl import checkpoint, mesh, weights
from jssl.config.build import build
from jssl.data.source import InMemory
from jssl.train.init import Program, initial_state
from jssl.train.loop import train

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures/weights/timm_dinov2"
OWN = {key: value for key, value in TINY.items() if "objective." not in key}
DINOV2 = {
  "objective": {
    **{"name": "dinov2", "gram_weight": 1.0, "gram_start_step": 1},
    **{"prototypes": {"number": 8}, "patch_prototypes": {"number": 8}},
    "projector": {"hidden_dims": (), "out_dim": 8},
    "patch_projector": {"hidden_dims": (), "out_dim": 8},
  },
}


def from_file(path=FIXTURE, model=None, **overrides):
  """A config of the model in a file, with images of twice the size."""
  own = {**OWN, "data.batch_size": 8, "init_from.weights": str(path)}
  model = {"num_heads": 3, "mean": (0.4,), "std": (0.25,), **(model or {})}
  return dataclasses.replace(
    config(**{**own, **overrides}), model=weights.load(FIXTURE, **model)[0]
  )


def assert_equal(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_heads_start_from_an_official_training_file():
  path = FIXTURE.parent / "official_dinov2_training"
  head = {"hidden_dims": (32, 32), "out_dim": 16, "norm": False}
  head["activation"] = "gelu_erf"
  layer = {"number": 40, "norm": "none"}
  objective = {
    **{"name": "dinov2", "shared_head": False},
    **{"projector": head, "patch_projector": head},
    **{"prototypes": layer, "patch_prototypes": layer},
  }
  made = config(
    **{**OWN, "data.batch_size": 8, "objective": objective},
    **{"init_from.weights": str(path), "init_from.heads": True},
  )
  model, _ = weights.load(path, num_heads=3, mean=(0.4,), std=(0.25,))
  run = build(dataclasses.replace(made, model=model))
  program = Program(run)
  state = initial_state(run, program)
  initial = program.init()
  expected, _ = weights.load_heads(
    run.objective, initial.head_params, initial.objective, path
  )
  assert_equal(state.head_params, expected)
  assert_equal(state.objective["teacher"], expected)
  assert float(abs(initial.head_params["prototypes"]).max()) > 0
  assert not np.array_equal(
    initial.head_params["prototypes"], expected["prototypes"]
  )


def test_student_teacher_and_anchor_start_from_the_file(monkeypatch, caplog):
  """Sharded as the state; scanned; with the mask token that the file lacks."""
  monkeypatch.setattr(mesh, "_MIN_SPLIT_SIZE", 256)
  made = from_file(model={"scan_layers": True}, **DINOV2, **{"mesh.fsdp": 2})
  run = build(made)
  program = Program(run)
  state = initial_state(run, program)
  expected = weights.load_for(
    dataclasses.replace(made.model, mask_token=True), (32, 32, 3), FIXTURE
  )
  assert re.search(r"model\.mean=\(0\.4,\) standardises.*0\.485", caplog.text)
  assert_equal(state.backbone, expected)
  assert_equal(state.teacher, expected)
  assert_equal(state.anchor, expected)
  specs = jax.tree.map(lambda x: x.sharding.spec, state.backbone)
  wanted = jax.tree.map(
    lambda x: x.sharding.spec, program.abstract_state.backbone
  )
  assert jax.tree.leaves(specs) == jax.tree.leaves(wanted)
  assert any(
    "fsdp" in spec
    for spec in jax.tree.leaves(
      specs, is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
  )


@pytest.mark.parametrize("channels", ["repeat", "new"])
def test_rule_for_other_channels(channels, caplog):
  """Of the weights of three channels on images of five."""
  images = np.zeros((32, 32, 32, 5), np.uint16)
  labels = np.zeros(32, np.int32)
  source = InMemory("five", ("a", "b"), images, labels)
  colours = {"saturation": 0.0, "hue": 0.0, "grayscale_probability": 0.0}
  made = from_file(
    **{f"augment.{name}": value for name, value in colours.items()},
    **{"init_from.channels": channels},
  )
  model = dataclasses.replace(
    made.model, mean=(0.1, 0.2, 0.3, 0.4, 0.5), std=(0.25,) * 5
  )
  made = dataclasses.replace(made, model=model)
  run = build(made, source=source)
  program = Program(run)
  state = initial_state(run, program)
  assert re.search(r"model\.mean=\(0\.1, 0\.2.*standardises", caplog.text)
  expected = weights.load_for(made.model, (32, 32, 5), FIXTURE)
  if channels == "new":
    initial = program.init().backbone["params"]["embed"]["kernel"]
    expected["params"]["embed"]["kernel"] = initial
  assert_equal(state.backbone, expected)


@pytest.mark.parametrize(
  ("path", "model", "match"),
  [
    (FIXTURE / "none.safetensors", {}, r"none\.safetensors does not exist"),
    (FIXTURE, {"num_registers": 2}, r"model\.num_registers=2, 0 in the file"),
  ],
)
def test_weights_that_do_not_fit(path, model, match):
  """A preflight reads no file."""
  made = from_file(path)
  made = dataclasses.replace(
    made, model=dataclasses.replace(made.model, **model)
  )
  run = build(made)
  program = Program(run)
  with pytest.raises(ValueError, match=rf"^init_from\.weights: .*{match}"):
    initial_state(run, program)


def test_the_rule_for_other_channels_needs_them():
  run = build(from_file(**{"init_from.channels": "new"}))
  with pytest.raises(
    ValueError, match=r'channels="new": expected "repeat", be'
  ):
    initial_state(run, Program(run))


@pytest.mark.parametrize("other", [{"workdir": "W"}, {"step": 3}])
def test_a_file_and_a_run_exclude_each_other(other):
  keys = {f"init_from.{key}": value for key, value in other.items()}
  with pytest.raises(ValueError, match=r"init_from\.weights='F': expected no"):
    config(**{"init_from.weights": "F"}, **keys)


@pytest.mark.slow
def test_a_run_starts_from_a_file_and_resumes_without(tmp_path):
  copy = tmp_path / "weights"
  shutil.copytree(FIXTURE, copy)
  wrong = from_file(copy)
  wrong = dataclasses.replace(
    wrong, model=dataclasses.replace(wrong.model, num_registers=2)
  )
  with pytest.raises(ValueError, match=r"model\.num_registers"):
    train(wrong, tmp_path / "W")
  assert not (tmp_path / "W").exists()
  # A step of no size: what is saved is what was read.
  still = {"optim.learning_rate": 1e-30, "optim.weight_decay": 0.0}
  made = from_file(copy, **still, **{"train.steps": 4})
  assert train(made, tmp_path / "W")
  found = checkpoint.restore_backbone(tmp_path / "W", 4)
  expected = weights.load_for(made.model, (32, 32, 3), copy)
  for name in ("cls", "positions"):
    np.testing.assert_allclose(
      found["params"][name], expected["params"][name], atol=1e-20
    )
  shutil.rmtree(copy)
  longer = from_file(copy, **still, **{"train.steps": 6})
  assert train(longer, tmp_path / "W", extend=True)
  assert [row["step"] for row in rows(tmp_path / "W")] == [*range(1, 7)]
