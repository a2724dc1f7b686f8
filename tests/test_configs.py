"""Every config builds, and its step traces, without its data being there."""

import pathlib
import re
import runpy
import sys

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from ml_collections import config_flags

import jssl
from jssl import build, sections
from jssl.sections import Probe
from jssl.train.program import Program

ROOT = pathlib.Path(jssl.__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))

CHANNELS = {"fashion_mnist": 1}


class Shapes:
  """A source of which only the shapes are there."""

  def __init__(self, data):
    size = data.image_size_px
    self.image_shape = (size, size, CHANNELS.get(data.name, 3))

  def __len__(self):
    return 2**20


def load(path):
  return runpy.run_path(str(path))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_builds_and_traces(path):
  config = load(path)["get_config"]()
  data = build.section(config, "data", sections.Data)
  run = build.run(config, train_source=Shapes(data))
  build.section(config, "probe", Probe)
  program = Program(run)
  b, shape = data.batch_size, run.source.image_shape
  batch = {
    "image": jax.ShapeDtypeStruct((b, *shape), jnp.uint8),
    "label": jax.ShapeDtypeStruct((b,), jnp.int32),
  }
  state, metrics = jax.eval_shape(program.step, program.abstract_state, batch)
  wanted = program.abstract_state
  assert jax.tree.structure(state) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
  assert metrics["loss"].shape == ()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_says_what_it_is(path):
  doc = load(path)["__doc__"]
  assert re.search(r"\(.* et al\., .*\d{4}", doc)
  command = f"--config=configs/{path.name}"
  assert command in doc or "launch/quickstart.sh" in doc
  for word in ("Cost", "Expected"):
    assert word in doc, f"{path.name} doesn't say {word}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_is_read_as_a_flag(path, monkeypatch):
  """With the lock on, a misspelt key suggests the right one."""
  argv = ["test", f"--config={path}", "--config.optim.learning_rate=0.5"]
  # The flag looks there for the values that are overridden.
  monkeypatch.setattr(sys, "argv", argv)
  values = flags.FlagValues()
  flag = config_flags.DEFINE_config_file(
    "config", lock_config=True, flag_values=values
  )
  values(argv)
  assert flag.value.optim.learning_rate == 0.5
  with pytest.raises(AttributeError, match='mean "learning_rate"'):
    flag.value.optim.learning_rat = 1.0
