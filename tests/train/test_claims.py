"""A workdir is claimed only by a run that can begin."""

import pathlib

import jax
import pytest
from data.damage import prepare_set
from shipped import config
from train.runs import TINY

from jssl.checkpoint import CheckpointError, Checkpoints
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


def test_a_model_that_does_not_fit_the_device(tmp_path):
  with pytest.raises(ValueError, match=r"does not fit the devices: .*mory"):
    train(tiny(**{"model.width": 65_536}), tmp_path / "W")
  assert not (tmp_path / "W").exists()


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
