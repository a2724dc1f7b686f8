"""Every variant of every config builds, and its step traces, without data."""

import pathlib
import re
import runpy

import jax
import jax.numpy as jnp
import pytest
from shipped import Shapes

import jssl
from jssl.config.build import build
from jssl.config.command_line import load
from jssl.config.parse import parse
from jssl.config.schema import Config
from jssl.train.init import Program

ROOT = pathlib.Path(jssl.__file__).parents[1]
# Those of the kernel regime train nothing; tests/study has them.
CONFIGS = sorted(
  path
  for path in (ROOT / "configs").glob("*.py")
  if not path.name.startswith("kernel_")
)


def run_file(path):
  return runpy.run_path(str(path))


def variants(path):
  """The arguments that a config file says it has; none: it has one form."""
  module = run_file(path)
  return [*module.get("VARIANTS", module.get("METHODS", ()))]


def built(config):
  parsed = parse(config, Config)
  return build(parsed, source=Shapes(parsed.data))


def check_step(run):
  """A step of a run traces, and gives a state like the one that it took."""
  program = Program(run)
  b, shape = run.config.data.batch_size, run.source.image_shape
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


# All but the variant that a file names first are slow.
BY_CASE = pytest.mark.parametrize(
  ("path", "arg"),
  [
    pytest.param(
      path,
      arg,
      marks=pytest.mark.slow if number else (),
      id=path.stem + (f"-{arg}" if arg else ""),
    )
    for path in CONFIGS
    for number, arg in enumerate(variants(path) or [None])
  ],
)
# One of each kind of step; the whole matrix is slow.
QUICK = (
  "quickstart",
  "fashion_mnist",
  "simclr_cifar10",
  "swav_imagenet",
  "dino_imagenet",
  "simsiam_order_imagenet",
)


@BY_CASE
def test_builds(path, arg):
  """Sections fit each other, and model, heads and loss are traced."""
  get_config = run_file(path)["get_config"]
  config = get_config(arg) if arg else get_config()
  built(config)


@pytest.mark.parametrize("name", QUICK)
def test_a_step_of_a_thin_model_traces(name):
  config = run_file(ROOT / "configs" / f"{name}.py")["get_config"]()
  config.model.depth = {"resnet": 18, "vit": 1}[config.model.name]
  check_step(built(config))


@pytest.mark.slow
@BY_CASE
def test_a_step_traces(path, arg):
  get_config = run_file(path)["get_config"]
  check_step(built(get_config(arg) if arg else get_config()))


@pytest.mark.parametrize(
  # The variants of `folder` are names of sets.
  "path",
  [path for path in CONFIGS if path.stem != "folder"],
  ids=lambda p: p.stem,
)
def test_variants_are_those_that_it_says(path):
  """The default is one of them, all differ, and others are errors."""
  get_config = run_file(path)["get_config"]
  default = get_config().to_json(sort_keys=True)
  named = {
    arg: get_config(arg).to_json(sort_keys=True) for arg in variants(path)
  }
  assert len(set(named.values())) == len(named)
  assert not named or default in named.values()
  with pytest.raises(ValueError, match=r"unknown (variant|method) 'nonesuch'"):
    get_config("nonesuch")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_says_what_it_is(path):
  doc = run_file(path)["__doc__"]
  # Papers of two authors name both.
  assert re.search(r"\(.* (et al\.|& \w+), .*\d{4}", doc)
  commands = f"--config=configs/{path.name}", f"--config={path.stem}:"
  assert any(command in doc for command in commands) or (
    "launch/quickstart.sh" in doc
  )
  words = ["Cost", "Expected"]
  if "VARIANTS" in run_file(path):
    words += [f":{arg}" for arg in variants(path)]
  for word in words:
    assert word in doc, f"{path.name} doesn't say {word}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_keys_are_set_on_the_command_line(path):
  flag = "--config.optim.learning_rate=0.5"
  assert load(str(path), [flag], Config).optim.learning_rate == 0.5
  with pytest.raises(ValueError, match="mean 'learning_rate'"):
    load(str(path), ["--config.optim.learning_rat=1.0"], Config)
