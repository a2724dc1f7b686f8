"""A workdir is claimed only by a run that can begin."""

import jax
import numpy as np
import pytest
from shipped import config
from train.runs import TINY

from jssl.checkpoint import CheckpointError, Checkpoints
from jssl.config.build import build, open_split
from jssl.data.source import InMemory
from jssl.train.init import open_checkpoints
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
    train(tiny(**{"model.width": 1_000_000}), tmp_path / "W")
  assert not (tmp_path / "W").exists()


def digits(images):
  """The first images of the embedded set, as another preparation has them."""
  whole = open_split(tiny().data, "train")
  rows = whole.fetch(np.arange(images))
  return InMemory(whole.name, whole.class_names, rows["image"], rows["label"])


def test_a_set_that_was_prepared_anew_is_refused(tmp_path):
  items = {"backbone": {"w": jax.numpy.ones(3)}}
  with open_checkpoints(build(tiny(), source=digits(60)), tmp_path) as saved:
    saved.save(1, items)
  with (
    open_checkpoints(build(tiny(), source=digits(90)), tmp_path) as other,
    pytest.raises(CheckpointError, match=r"images: was '60 im.*now '90 im"),
  ):
    other.restore_latest(items)
  with open_checkpoints(build(tiny(), source=digits(60)), tmp_path) as same:
    assert same.restore_latest(items) is not None
