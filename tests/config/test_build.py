import dataclasses
import pathlib

import numpy as np
import pytest
from shipped import config, config_dict

import jssl
from jssl.config import build as build_lib
from jssl.config.build import build
from jssl.config.parse import parse, to_dict
from jssl.config.schema import Config
from jssl.data.embedded import cluttered_digits
from jssl.data.source import InMemory
from jssl.runtime.workdir import check_workdir, claim_workdir, load_config


def test_a_run_is_made_of_the_config():
  run = build(config(**{"mesh.fsdp": 2}))
  assert run.backbone.feature_dim == 128
  assert run.image_shape == (32, 32, 3)
  assert dict(run.mesh.shape) == {"data": 4, "fsdp": 2}
  assert len(run.source) == 20_000


@pytest.mark.parametrize(
  ("overrides", "error", "match"),
  [
    ({"data.batch_size": 100}, ValueError, "data.batch_size=100.*96 or 104"),
    ({"data.batch_size": 40_000}, ValueError, "40000: expected 1 to 20000"),
    ({"data.batchsize": 64}, ValueError, "data.batchsize.*'batch_size'"),
    ({"data.batch_size": "64"}, TypeError, "data.batch_size='64'.*int"),
    ({"model.width": 64.0}, TypeError, "model.width=64.0.*float.*int"),
    ({"model.name": "vti"}, ValueError, "model.name='vti'.*'vit'"),
    ({"objective.name": "sim"}, ValueError, "objective.name='sim'"),
    (
      {"objective.projector.hidden_dims": 8},
      TypeError,
      "objective.projector.hidden_dims=8 must be a tuple",
    ),
    (
      {"objective.projector.out_dims": 8},
      ValueError,
      "objective.projector.out_dims is not a key; did you mean 'out_dim'",
    ),
    ({"objective.projector": 8}, TypeError, "projector=8 must be a section"),
    ({"model.patch_size_px": 5}, ValueError, "patch_size_px=5.*crop_size_px"),
    ({"model.mean": (0.5, 0.5)}, ValueError, "model.mean"),
    (
      {
        "model": {
          **{"name": "resnet", "depth": 18, "small_images": True},
          **{"mean": (0.5,), "std": (0.2,)},
        },
        "probe.features": "cls",
      },
      ValueError,
      'probe.features="cls": expected "pooled", because ResNet',
    ),
    (
      {
        "model": {
          **{"name": "resnet", "depth": 18, "small_images": True},
          **{"mean": (0.5,), "std": (0.2,)},
        },
        "data.name": "cluttered_digits",
        "probe.dense_images": 100,
      },
      ValueError,
      "probe.dense_images=100: expected 0, because ResNet",
    ),
    ({"probe.dense_images": 1}, ValueError, "dense_images=1.*at least 2"),
    ({"probe.blocks": 4}, ValueError, "probe.blocks=4: expected 1 with"),
    ({"mesh.data": 3, "mesh.fsdp": 3}, ValueError, "mesh.data=3, mesh.fsdp=3"),
    ({"optim.warmup_steps": 9999}, ValueError, "optim.warmup_steps=9999"),
    ({"optim.name": "adm"}, ValueError, "optim.name='adm'.*adam"),
    ({"optims.name": "adamw"}, ValueError, "optims is not a section.*'optim'"),
    ({"augment.hue": 0.7}, ValueError, "augment.hue=0.7"),
    ({"train.steps": 0}, ValueError, "train.steps=0"),
    ({"log.every_steps": 0}, ValueError, "log.every_steps=0"),
    ({"checkpoint.every_steps": -1}, ValueError, "checkpoint.every_steps=-1"),
    (
      {"augment.num_small": 2, "augment.small_crop_size_px": 16},
      ValueError,
      "augment.num_small=2: SimCLR takes 2 views of one size.*dino",
    ),
    (
      {
        "augment.num_small": 2,
        "augment.small_crop_size_px": 12,
        "objective": {"name": "swav"},
      },
      ValueError,
      "12 x 12 px.*model.patch_size_px=8.*small_crop_size_px",
    ),
    (
      {"objective": {"name": "moco_v3", "queue_size": 1000}},
      ValueError,
      r"objective.queue_size=1000 must be a multiple.*data.batch_size",
    ),
    (
      {"objective": {"name": "byol", "momentum_start": 1.5}},
      ValueError,
      "objective.momentum_start=1.5",
    ),
    (
      {"objective": {"name": "simsiam"}, "head.strategy": "unrolled"},
      ValueError,
      'head.strategy="unrolled".*SimSiam.*predictor',
    ),
    (
      {"order.name": "hybrid", "order.switch_epoch": 400},
      ValueError,
      "order.switch_epoch=400",
    ),
    ({"train.chunks": 3}, ValueError, "train.chunks=3.*a multiple of 24"),
    (
      {
        "head.batch": "fresh",
        "head.strategy": "alternating",
        "train.chunks": 64,
      },
      ValueError,
      "train.chunks=64",
    ),
    ({"optim.momentum": 1.5}, ValueError, "optim.momentum=1.5"),
    (
      {"augment.blur_probability": (0.1, 0.2, 0.3)},
      ValueError,
      "augment.blur_probability=.*num_views",
    ),
    (
      {
        "head.strategy": "alternating",
        "head.batch": "fresh",
        "objective": {"name": "w_mse", "projector": {"out_dim": 128}},
      },
      ValueError,
      "data.batch_size=128 must exceed",
    ),
    (
      {"head.strategy": "implicit"},
      ValueError,
      "head.l2=0 and head.damping=0",
    ),
  ],
)
def test_what_does_not_fit_is_named(overrides, error, match):
  with pytest.raises(error, match=match):
    build(config(**overrides))


RESNET = {
  **{"name": "resnet", "depth": 18, "small_images": True},
  **{"mean": (0.5,), "std": (0.2,)},
}
SMALL = {"augment.num_small": 2, "augment.small_crop_size_px": 16}
RATIOS = "mask_ratio_min=.*mask_ratio_max={}.* 0 < mask_ratio_max < 1"


@pytest.mark.parametrize(
  ("objective", "overrides", "match"),
  [
    *(
      (name, {"model": RESNET}, r'\(objective.name\).*model.name="vit"')
      for name in ("mae", "simmim", "ijepa", "ibot", "dinov2")
    ),
    *(
      (name, {"objective.mask_ratio": ratio}, f"objective.mask_ratio={ratio}")
      for name in ("mae", "simmim")
      for ratio in (0.0, 1.0)
    ),
    ("mae", {"objective.mask_ratio": 0.99}, "mask_ratio=0.99 leaves 0 of 16"),
    ("simmim", {}, "mask_ratio=0.6 hides all 1 units of.*mask_unit_px=32"),
    *(
      (
        name,
        {"objective.mask_ratio_min": low, "objective.mask_ratio_max": high},
        RATIOS.format(high),
      )
      for name in ("ibot", "dinov2")
      for low, high in ((0.0, 0.0), (0.1, 1.0), (0.5, 0.4))
    ),
    *(
      (name, SMALL, "augment.num_small=2.*set it to 0 or objective.name")
      for name in ("mae", "simmim", "ijepa")
    ),
    *(
      (name, {"model.patch_size_px": 5}, "model.patch_size_px=5.*crop_size_px")
      for name in ("mae", "ijepa", "dinov2")
    ),
    (
      "dinov2",
      {**SMALL, "augment.small_crop_size_px": 12},
      "12 x 12 px.*model.patch_size_px=8.*small_crop_size_px",
    ),
    (
      "simmim",
      {"objective.mask_unit_px": 12},
      "objective.mask_unit_px=12 must divide.*augment.crop_size_px",
    ),
    (
      "simmim",
      {"objective.mask_unit_px": 4},
      "objective.mask_unit_px=4 must be a multiple.*model.patch_size_px=8",
    ),
    (
      "ijepa",
      {"objective.num_targets": 8, "objective.min_context": 0},
      "objective.num_targets=8 blocks of 2 patches.*fit into the 13 patches",
    ),
    (
      "mae",
      {"augment.cutmix_alpha": 1.0},
      "augment.cutmix_alpha=1.0: MAE does not take mixed.*name to supervised",
    ),
    (
      "dinov2",
      {"objective.gram_weight": 2.0},
      "objective.gram_start_step=0.*random.*init_from.weights",
    ),
    (
      "dinov2",
      {
        "objective.gram_weight": 2.0,
        "objective.gram_start_step": 4,
        "train.steps": 4,
      },
      "objective.gram_start_step=4: expected less than train.steps=4",
    ),
    (
      "dinov2",
      {"data.batch_size": 1, "mesh.data": 1},
      "objective.koleo_weight=0.1 .*there is 1; raise data.batch_size",
    ),
  ],
)
def test_what_a_method_of_patch_tokens_cannot_use_is_named(
  objective, overrides, match
):
  with pytest.raises(ValueError, match=match):
    build(config(**{"objective": {"name": objective}, **overrides}))


def test_gram_anchoring_to_a_teacher_is_accepted():
  gram = {"name": "dinov2", "gram_weight": 2.0}
  build(config(objective={**gram, "gram_start_step": 1}))
  for key in ("workdir", "weights"):
    build(config(objective=gram, **{f"init_from.{key}": "trained"}))


def test_a_missing_key_is_named():
  made = config_dict()
  del made.model.width
  with pytest.raises(ValueError, match=r"model.width is missing"):
    parse(made, Config)


def test_a_missing_set_is_told_with_its_command(tmp_path):
  made = config("simclr_fashion_mnist", **{"data.data_dir": str(tmp_path)})
  with pytest.raises(
    FileNotFoundError, match=r"python -m jssl.data.prepare fashion_mnist"
  ):
    build(made)


def test_the_config_comes_back_from_the_workdir(tmp_path):
  made = config(**{"objective.projector.hidden_dims": (7, 9)})
  claim_workdir(to_dict(made), tmp_path)
  loaded = load_config(tmp_path)
  assert parse(loaded, Config) == made
  claim_workdir(loaded, tmp_path)


def test_a_workdir_of_another_config_is_refused(tmp_path):
  claim_workdir(to_dict(config()), tmp_path)
  before = (tmp_path / "config.json").read_bytes()
  other = config(**{"model.width": 64, "objective.temperature": 0.3})
  with pytest.raises(ValueError, match="belongs to a run") as caught:
    claim_workdir(to_dict(other), tmp_path)
  assert "model.width: was 128, now 64" in str(caught.value)
  assert "objective.temperature: was 0.2, now 0.3" in str(caught.value)
  assert (tmp_path / "config.json").read_bytes() == before
  # Another mesh or another rhythm of logging is the same run.
  claim_workdir(
    to_dict(config(**{"mesh.fsdp": 2, "log.every_steps": 1})), tmp_path
  )


def test_no_run_there(tmp_path):
  with pytest.raises(FileNotFoundError, match="--workdir"):
    load_config(tmp_path)
  with pytest.raises(FileNotFoundError, match="--workdir"):
    jssl.load_backbone(tmp_path)


@pytest.mark.parametrize(
  "workdir", ["gs://bucket", pathlib.Path("gs://bucket"), "S3://bucket/W"]
)
def test_a_workdir_that_is_no_folder(tmp_path, monkeypatch, workdir):
  monkeypatch.chdir(tmp_path)
  for use in (
    check_workdir,
    load_config,
    lambda path: claim_workdir(to_dict(config()), path),
  ):
    with pytest.raises(
      ValueError, match=r"--workdir=.*expected a folder or gs://BUCKET"
    ):
      use(workdir)
  assert not [*tmp_path.iterdir()]
  bucket = "gs://bucket/W"
  for folder in ("W", "/shared/W", pathlib.Path("a:b/W"), bucket):
    check_workdir(folder)
  with pytest.raises(ValueError, match="expected a path on a disk"):
    check_workdir(bucket, local=True)


def one_of_class_7(source):
  kept = np.flatnonzero(source.labels == 7)[0]
  others = np.where(source.labels == 7, 3, source.labels).astype(np.int32)
  others[kept] = 7
  return dataclasses.replace(source, labels=others)


def one_without_a_label(source):
  labels = source.labels.copy()
  labels[5] = -1
  return dataclasses.replace(source, labels=labels)


@pytest.mark.parametrize(
  ("change", "probes", "warning"),
  [
    (lambda source: source, ("linear",), ""),
    (one_of_class_7, (), ""),
    (one_of_class_7, ("knn",), "class 7 of patterns has 1 training"),
    (one_without_a_label, ("mlp",), "1 of 20000 images have no label"),
    (
      lambda source: dataclasses.replace(source, class_names=()),
      ("linear",),
      "patterns has no labels",
    ),
  ],
)
def test_labels_that_the_probe_cannot_use_are_warned_of(
  monkeypatch, caplog, change, probes, warning
):
  """They are no error: another set may be probed."""
  train = change(cluttered_digits())
  monkeypatch.setattr(
    build_lib,
    "open_split",
    lambda data, split: train if split == "train" else cluttered_digits(split),
  )
  build(config(**{"probe.probes": probes}))
  assert warning in caplog.text
  assert bool(warning) == ("cannot fit probes" in caplog.text)


def test_the_test_split_is_not_read_into_memory(monkeypatch):
  opened = {}

  def open_split(data, split):
    opened[split] = data.in_memory
    return cluttered_digits(split)

  monkeypatch.setattr(build_lib, "open_split", open_split)
  build(config())
  assert opened == {"train": True, "test": False}


def test_a_dense_probe_needs_masks(monkeypatch):
  digits = cluttered_digits("test")
  plain = InMemory("plain", digits.class_names, digits.images, digits.labels)
  monkeypatch.setattr(build_lib, "open_split", lambda data, split: plain)
  match = "probe.dense_images=100: expected 0, because data.name=.* no masks"
  with pytest.raises(ValueError, match=match):
    build(config(**{"probe.dense_images": 100}))
