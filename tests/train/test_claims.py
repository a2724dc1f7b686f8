"""A workdir is claimed only by a run that can begin."""

import itertools
import pathlib

import jax
import pytest
from data.damage import prepare_set
from shipped import config
from train.runs import TINY

from jssl.checkpoint import CheckpointError, Checkpoints
from jssl.runtime import exit_codes
from jssl.train.init import Program
from jssl.train.loop import train


def tiny(**overrides):
  return config(**{**TINY, **overrides})


def test_a_missing_checkpoint_to_start_from(tmp_path):
  wrong = tiny(**{"init_from.workdir": str(tmp_path / "none")})
  with pytest.raises(ValueError, match=r"init_from\.workdir=.*no checkpoint"):
    train(wrong, tmp_path / "W")
  assert not (tmp_path / "W").exists()


def test_a_checkpoint_of_another_model_to_start_from(tmp_path):
  with Checkpoints(
    tmp_path / "other", keep_last=2, keep_every_steps=None
  ) as checkpoints:
    checkpoints.save(1, {"backbone": {"w": jax.numpy.ones(3)}})
  wrong = tiny(**{"init_from.workdir": str(tmp_path / "other")})
  with pytest.raises(CheckpointError, match="does not match this config"):
    train(wrong, tmp_path / "W")
  assert not (tmp_path / "W").exists()


SHORT = {"data.batch_size": 8, "train.steps": 2, "optim.warmup_steps": 0}


def exhaust(*_):
  raise jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nBuffers: ..."
  )


def steps_that_exhaust(compiled, number):
  """Returns a compiled step that finds no memory in its call `number`."""
  calls = itertools.count(1)
  return lambda *args: exhaust() if next(calls) == number else compiled(*args)


@pytest.mark.parametrize(
  ("name", "make"),
  [
    ("compile", lambda original: exhaust),
    pytest.param(
      "init",
      lambda original: property(lambda self: exhaust, lambda *_: None),
      marks=pytest.mark.slow,
    ),
    pytest.param(
      "compile",
      lambda original: lambda p: steps_that_exhaust(original(p), 1),
      marks=pytest.mark.slow,
    ),
    pytest.param(
      "compile",
      lambda original: lambda p: steps_that_exhaust(original(p), 2),
      marks=pytest.mark.slow,
    ),
  ],
  ids=["compilation", "the first state", "step 1", "step 2"],
)
def test_too_little_memory(tmp_path, monkeypatch, request, name, make):
  """One line; while nothing is trained, the workdir is free."""

  def run():
    train(tiny(**SHORT), tmp_path / "W")

  with monkeypatch.context() as patch:
    original = getattr(Program, name, None)
    patch.setattr(Program, name, make(original), raising=False)
    message = (
      r"does not fit the devices: .*Out of memory allocating 9 bytes\. .*"
      r"data\.batch_size.*train\.chunks.*model\.remat"
    )
    with pytest.raises(ValueError, match=message) as raised:
      run()
    assert "\n" not in str(raised.value)
    assert exit_codes.run_with_exit_code(run, (ValueError,)) == 1
  corrected = tiny(**{**SHORT, "data.batch_size": 16})
  if "step 2" in request.node.name:
    with pytest.raises(ValueError, match=r"batch_size: was 8, now 16"):
      train(corrected, tmp_path / "W")
  else:
    assert not (tmp_path / "W" / "config.json").exists()
    assert train(corrected, tmp_path / "W")


@pytest.mark.slow
def test_a_set_that_was_prepared_anew_is_refused(tmp_path):
  """With other images a run would go on as another one."""

  def run(folder, images_a_class):
    data_dir = prepare_set(tmp_path / folder, images_a_class=images_a_class)
    options = {"data.name": "photos", "data.data_dir": data_dir}
    steps = {"train.steps": 3, "data.batch_size": 8}
    return train(tiny(**options, **steps), tmp_path / "W")

  assert run("first", 8)
  assert run("the_same", 8)
  with pytest.raises(
    CheckpointError, match=r"images: was '35 images, .*now '55 images, "
  ):
    run("more", 12)


def test_crops_smaller_than_the_images(tmp_path):
  """The compiled step takes images of the set's size, not of the crops'."""
  small = {"augment.crop_size_px": 24, "data.batch_size": 8}
  steps = {"train.steps": 1, "optim.warmup_steps": 0}
  assert train(tiny(**small, **steps), tmp_path / "W")


def test_a_test_split_that_the_probe_cannot_open(tmp_path):
  """Without probes no test split is needed."""
  data_dir = prepare_set(tmp_path)
  photos = {
    **{"data.name": "photos", "data.data_dir": data_dir, "data.batch_size": 8},
    **{"train.steps": 1, "optim.warmup_steps": 0},
  }
  misspelt = {**photos, "data.test_split": "tset"}
  message = r"data\.test_split='tset'.*probe\.probes=\(\).*\['test', 'train'\]"
  with pytest.raises(ValueError, match=message):
    train(tiny(**misspelt), tmp_path / "W")
  (file,) = pathlib.Path(data_dir).rglob("*-test.array_record*")
  file.unlink()
  with pytest.raises(ValueError, match=rf"test_split='test'.*{file.name}"):
    train(tiny(**photos), tmp_path / "W")
  assert not (tmp_path / "W").exists()
  assert train(tiny(**misspelt, **{"probe.probes": ()}), tmp_path / "W")
