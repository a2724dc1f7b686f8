"""Diagnostics of a run: of its backbone, and of the heads that read it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from oracles.probe import SETTINGS

from jssl import checkpoint, diagnostics
from jssl.augment import Augment
from jssl.config.parse import parse, replace, to_dict
from jssl.config.schema import Config
from jssl.data.source import InMemory
from jssl.models import ViT
from jssl.models.backbone import Backbone, init_variables
from jssl.models.heads import Head
from jssl.models.tokens import Encoded, Spec
from jssl.objectives.cissl import CISSL
from jssl.probe import dataset, diagnosis, measures, plan, runner, sample
from jssl.runtime.workdir import claim_workdir

SHAPE, DIM = (4, 4, 1), 6


def init(key, image_shape):
  return {"params": {"w": jax.random.normal(key, (np.prod(image_shape), DIM))}}


def apply(variables, images, *, train, keys=None):
  assert not train
  h = images.reshape(len(images), -1) @ variables["params"]["w"]
  return Encoded(h), variables


BACKBONE = Backbone(init, apply, DIM)
AUGMENT = Augment(crop_size_px=4, crop_min_area=0.5)
OBJECTIVE = CISSL(
  student=Head((), 3, last_norm="affine"), teacher=Head((5,), 3)
)
CONFIG = parse(
  {
    "data": {"name": "tiny", "batch_size": 8, "image_size_px": 4},
    "augment": {"crop_size_px": 4, "crop_min_area": 0.5},
    "model": {
      **{"name": "vit", "patch_size_px": 2, "width": 6},
      **{"depth": 1, "num_heads": 1},
    },
    "objective": {"name": "cissl", "student": {}, "teacher": {}},
    "optim": {"name": "adamw", "learning_rate": 1e-3},
    "train": {"steps": 20},
    "checkpoint": {"every_steps": 10},
    "probe": {
      **SETTINGS,
      "probes": ("linear",),
      "baselines": ("random",),
      "label_fractions": (),
      "batch_size": 64,
      "diagnostic_images": 40,
      "diagnostic_views": 4,
    },
  },
  Config,
)
EVERYTHING = {
  *("collapse_auc", "rank_me", "alpha_req", "stable_rank", "lidar"),
  *("alignment", "uniformity", "centres/max", "centres/mean"),
  *("centre_shrinkage", "simplex/distance", "simplex/norm_variation"),
  *("class_simplex/distance", "class_simplex/norm_variation"),
  *("info_nce/alignment", "info_nce/divergence"),
  *("barlow/alignment", "barlow/divergence"),
  *("nearest_mean_error", "image_entropy", "image_entropy_given_features"),
  *("linear_predictability", "lipschitz"),
  *(f"bound/{name}" for name in diagnostics.BoundTerms._fields),
}


def tiny(split, classes=4):
  rows = {"train": 302, "test": 203}[split]
  draw = np.random.default_rng(rows)
  labels = (np.arange(rows) % classes).astype(np.int32)
  images = draw.integers(0, 120, (rows, *SHAPE), dtype=np.uint8)
  images[np.arange(rows), labels, labels] += 100
  return InMemory("tiny", tuple("abcd"), images, labels)


def save(workdir, step, *, scale=1.0, **more):
  params, state = OBJECTIVE.init(jax.random.key(step), Spec(DIM))
  # Running statistics that are not those of the start.
  state = jax.tree.map(lambda x: x + 0.5, state)
  variables = init_variables(step, BACKBONE, SHAPE)
  items = {
    "backbone": jax.tree.map(lambda x: x * scale, variables),
    "objective": {"params": params, "state": state},
    **more,
  }
  with checkpoint.Checkpoints(
    workdir, keep_last=9, keep_every_steps=None
  ) as checkpoints:
    checkpoints.save(step, items)
  return items


@pytest.fixture
def workdir(tmp_path, monkeypatch, one_device):
  monkeypatch.setattr(dataset, "open_split", lambda data, split: tiny(split))
  monkeypatch.setattr(ViT, "backbone", lambda self: BACKBONE)
  monkeypatch.setattr(diagnosis, "build_objective", lambda config: OBJECTIVE)
  # Eight devices of one processor wait for each other.
  monkeypatch.setattr(dataset.mesh_lib, "make_mesh", lambda *_: one_device)
  claim_workdir(to_dict(CONFIG), tmp_path)
  return tmp_path


def rows(workdir):
  lines = (workdir / "probe.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def diagnosed(workdir):
  return {
    (r["features"], r["step"], r["at"]): r
    for r in rows(workdir)
    if r["record"] == "diagnostics"
  }


def run(workdir, **options):
  lines = []
  runner.run(workdir, log=lines.append, **options)
  return lines


def test_backbone_and_heads_are_diagnosed(workdir):
  items = save(workdir, 20)
  lines = run(workdir, diagnostics=True)
  found = diagnosed(workdir)
  assert found.keys() == {
    ("random", 0, "backbone"),
    ("backbone", 20, "backbone"),
    ("backbone", 20, "student"),
    ("backbone", 20, "teacher"),
  }
  for row in found.values():
    assert row["values"].keys() | row["not_measured"].keys() == EVERYTHING
    # Three directions are too few for a power law; nothing else is lacking.
    assert row["not_measured"].keys() <= {"alpha_req"}
  assert "33 diagnostics of backbone" in " ".join(lines)
  (curve,) = [r for r in rows(workdir) if r["record"] == "concentration"]
  assert len(curve["deltas"]) == len(curve["one_minus_sigma"])

  # The student's spectrum, by hand: all of train, by running statistics.
  images = tiny("train").images.reshape(302, -1) / np.float32(255)
  h = images @ items["backbone"]["params"]["w"]
  z = OBJECTIVE.outputs(**_arguments(items), h=h)["student"]
  row = found["backbone", 20, "student"]
  np.testing.assert_allclose(
    row["curves"]["singular_values"],
    diagnostics.singular_values(np.asarray(z)),
    rtol=1e-4,
  )
  assert row["values"]["collapse_auc"] != pytest.approx(
    found["backbone", 20, "teacher"]["values"]["collapse_auc"], rel=1e-3
  )


def test_heads_of_a_teacher_are_diagnosed_on_the_student(workdir, monkeypatch):
  teacher = init_variables(21, BACKBONE, SHAPE)
  items = save(workdir, 20, training={"teacher": teacher})
  monkeypatch.setattr(plan, "has_teacher", lambda config: True)
  run(workdir, diagnostics=True)
  images = tiny("train").images.reshape(302, -1) / np.float32(255)
  found = diagnosed(workdir)
  h = images @ items["backbone"]["params"]["w"]
  z = OBJECTIVE.outputs(**_arguments(items), h=h)["student"]
  head = found["backbone", 20, "student"]
  np.testing.assert_allclose(
    head["curves"]["singular_values"],
    diagnostics.singular_values(np.asarray(z)),
    rtol=1e-4,
  )
  h = images @ teacher["params"]["w"]
  backbone = found["backbone", 20, "backbone"]
  moment = diagnostics.second_moment(np.asarray(h))
  assert backbone["values"]["collapse_auc"] == pytest.approx(
    diagnostics.collapse_auc(diagnostics.values_of(moment)), rel=1e-4
  )
  assert (head["backbone"], backbone["backbone"]) == ("student", "teacher")
  # The training views of both backbones, not of one.
  assert not any("step20" in line for line in run(workdir, diagnostics=True))


def _arguments(items):
  return {
    "head_params": items["objective"]["params"],
    "state": items["objective"]["state"],
  }


def test_heads_that_are_lost_leave_the_backbone(workdir, monkeypatch):
  """As where a checkpoint is deleted while it is probed."""
  save(workdir, 10)
  save(workdir, 20)
  restore = checkpoint.restore

  def late(workdir, step, items):
    if step == 10 and "objective" in items:
      raise checkpoint.CheckpointError("no readable manifest")
    return restore(workdir, step, items)

  monkeypatch.setattr(checkpoint, "restore", late)
  run(workdir, diagnostics=True)
  found = diagnosed(workdir)
  assert "collapse_auc" in found["backbone", 10, "backbone"]["values"]
  lost = found["backbone", 10, "student"]
  assert lost["values"] == {}
  assert lost["not_measured"] == {"head": "no readable manifest"}
  assert found["backbone", 20, "student"]["values"]


def test_a_set_without_labels_has_what_needs_none(workdir, monkeypatch):
  def unlabelled(config, split):
    images = tiny(split).images
    return InMemory("tiny", (), images, np.full(len(images), -1, np.int32))

  monkeypatch.setattr(dataset, "open_split", unlabelled)
  save(workdir, 10)
  with pytest.raises(ValueError, match="without labels by --diag"):
    run(workdir)
  run(workdir, diagnostics=True)
  row = diagnosed(workdir)["backbone", 10, "backbone"]
  assert {"collapse_auc", "lidar", "simplex/distance"} <= row["values"].keys()
  assert "have no label" in row["not_measured"]["centres"]
  assert not any(r["record"] == "probe" for r in rows(workdir))


def test_an_image_without_a_label_leaves_what_needs_none(workdir, monkeypatch):
  def gap(config, split):
    whole = tiny(split)
    labels = whole.labels.copy()
    labels[7] = -1
    return dataclasses.replace(whole, labels=labels)

  monkeypatch.setattr(dataset, "open_split", gap)
  save(workdir, 10)
  with pytest.raises(ValueError, match="1 of 302 images have no label"):
    run(workdir)
  run(workdir, diagnostics=True)
  (probe,) = [
    r
    for r in rows(workdir)
    if r["part"] == "probe" and r["features"] == "backbone"
  ]
  assert "1 of 302 images have no label" in probe["reason"]
  row = diagnosed(workdir)["backbone", 10, "backbone"]
  # Means are of images that have one; the error is of all of test.
  assert row["not_measured"].keys() <= {"alpha_req", "nearest_mean_error"}
  assert "1 of 203" in row["not_measured"]["nearest_mean_error"]
  assert {"centres/max", "bound/rho"} <= row["values"].keys()


def test_features_that_are_not_finite_are_told_of(workdir):
  for step, scale in ((5, 1.0), (10, np.nan), (20, 1.0)):
    save(workdir, step, scale=scale)
  run(workdir, diagnostics=True, follow=True)
  assert ("backbone", 20, "student") in diagnosed(workdir)
  lost = {r["part"]: r for r in rows(workdir) if r["step"] == 10}
  assert lost.keys() == {"spectrum", "probe", "diagnostics"}
  for row in lost.values():
    assert "302 of 302 rows" in row["reason"]


def test_other_images_or_views_are_measured_anew(workdir):
  save(workdir, 10)
  run(workdir, diagnostics=True)
  before = rows(workdir)
  found = diagnosed(workdir)["backbone", 10, "student"]
  about = {"images_requested": 40, "images": 40, "views": 4, "num_classes": 4}
  assert about == {name: found[name] for name in about}
  changed = replace(
    CONFIG, {"probe.diagnostic_images": 30, "probe.diagnostic_views": 5}
  )
  claim_workdir(to_dict(changed), workdir)
  run(workdir, diagnostics=True)
  after = rows(workdir)
  assert len(after) == len(before)
  # 30 images are of 3 classes with 10 each.
  about = {"images_requested": 30, "images": 30, "views": 5, "num_classes": 3}
  for row in after:
    if row["record"] in ("diagnostics", "concentration"):
      assert about == {name: row[name] for name in about}
    else:
      assert row in before


def test_the_spectrum_is_kept_once_and_needs_no_labels(workdir, monkeypatch):
  def unlabelled(config, split):
    whole = tiny(split)
    return dataclasses.replace(
      whole, class_names=(), labels=np.full(len(whole), -1, np.int32)
    )

  monkeypatch.setattr(dataset, "open_split", unlabelled)
  for step in (10, 20):
    save(workdir, step)
  lines = run(workdir, diagnostics=True)
  spectra = [r for r in rows(workdir) if r["record"] == "spectrum"]
  assert [(r["features"], r["step"]) for r in spectra] == [
    *(("random", 0), ("backbone", 10), ("backbone", 20))
  ]
  for row in spectra:
    own = diagnosed(workdir)[row["features"], row["step"], "backbone"]
    assert own["values"]["collapse_auc"] == row["collapse_auc"]
    assert own["curves"].keys() == {"epsilon", "divergence"}
    assert row["singular_values"] == sorted(row["singular_values"])[::-1]
    # Both add up to the variance.
    for values in (row["singular_values"], row["deviation"]):
      assert len(values) == DIM
    np.testing.assert_allclose(
      np.sum(np.square(row["singular_values"])) / 302,
      np.sum(np.square(row["deviation"])),
      rtol=1e-6,
    )
  assert any("collapse AUC 0." in line for line in lines)


def test_what_was_probed_is_only_diagnosed(workdir):
  save(workdir, 10)
  run(workdir)
  before = rows(workdir)
  assert not diagnosed(workdir)
  run(workdir, diagnostics=True)
  assert rows(workdir)[: len(before)] == before
  assert ("backbone", 10, "student") in diagnosed(workdir)
  after = rows(workdir)
  run(workdir, diagnostics=True)
  assert rows(workdir) == after
  lines = run(workdir, overwrite=True, diagnostics=True)
  assert len(rows(workdir)) == len(after)
  assert sum("concentration" in line for line in lines) == 1


@pytest.fixture
def measured(one_device):
  """Random features of a drawn sample, and what is measured of changes."""
  source = tiny("train")

  def drawn(augment):
    return sample.draw_sample(
      source,
      source.labels,
      np.arange(40),
      augment,
      num_views=4,
      seed=0,
      mesh=one_device,
    )

  draw = np.random.default_rng(0)
  train = draw.normal(size=(302, DIM)).astype(np.float32)
  test = draw.normal(size=(203, DIM)).astype(np.float32)
  of_views = draw.normal(size=(40, 4, DIM)).astype(np.float32)

  def measure(*, scale=1.0, augment=AUGMENT, **labels):
    changed = drawn(augment)._replace(**labels)
    return measures.measure(
      lambda: diagnostics.second_moment(scale * train),
      scale * test,
      tiny("test").labels,
      scale * of_views,
      changed,
      sample.measure_views(changed, batch_size=64),
    )

  return measure


def test_one_class_leaves_the_measures_without_labels(measured):
  found = measured(labels=np.zeros(40, np.int32))
  assert found["not_measured"].keys() == {
    "centres",
    "centre_shrinkage",
    "class_simplex",
    "nearest_mean_error",
    "bound",
  }
  assert "at least 2 classes" in found["not_measured"]["centres"]
  assert {"collapse_auc", "lidar", "image_entropy"} <= found["values"].keys()


def test_collapsed_features_have_what_is_defined(measured):
  found = measured(scale=0.0)
  assert found["values"]["collapse_auc"] == 1
  assert found["values"]["alignment"] == 0
  assert "all singular values are 0" in found["not_measured"]["rank_me"]


def test_views_that_are_copies_leave_what_compares_none(measured):
  nothing = Augment(
    crop_size_px=4,
    crop_min_area=1.0,
    crop_ratio_min=1.0,
    crop_ratio_max=1.0,
    flip_probability=0.0,
  )
  found = measured(augment=nothing)
  reason = "all 4 views of each of 40 images are equal"
  assert found["not_measured"].keys() == {
    *("lidar", "alignment", "info_nce", "barlow", "lipschitz", "bound"),
    *("image_entropy_given_features", "linear_predictability", "divergence"),
  }
  for why in found["not_measured"].values():
    assert reason in why
  assert {
    "collapse_auc",
    "uniformity",
    "centres/max",
    "nearest_mean_error",
  } <= (found["values"].keys())


@pytest.fixture
def of_twenty(one_device, monkeypatch):
  """What is measured of features that all but name one of 20 uneven classes."""
  labels = np.repeat(np.arange(20), np.arange(20, 40)).astype(np.int32)
  draw = np.random.default_rng(0)
  images = draw.integers(0, 256, (len(labels), *SHAPE), np.uint8)
  source = InMemory("twenty", tuple("abcdefghijklmnopqrst"), images, labels)
  of = sample.draw_sample(
    source,
    labels,
    sample.balanced_rows(labels, images=60),
    AUGMENT,
    num_views=4,
    seed=0,
    mesh=one_device,
  )

  def features(labels):
    noise = 0.01 * draw.normal(size=(*labels.shape, 20))
    return (np.eye(20)[labels] + noise).astype(np.float32)

  views = features(of.labels[:, None].repeat(4, 1))
  found = measures.measure(
    lambda: diagnostics.second_moment(features(labels)),
    features(labels),
    labels,
    views,
    of,
    sample.measure_views(of, batch_size=64),
  )
  return of, views, found


def test_the_error_is_over_the_classes_that_are_looked_at(of_twenty):
  of, _, found = of_twenty
  assert len(np.unique(of.labels)) == 6
  assert found["values"]["nearest_mean_error"] == 0


def test_the_bound_is_of_the_set_and_not_of_the_balanced_sample(of_twenty):
  of, views, found = of_twenty
  seen, counts = np.unique(of.labels, return_counts=True)
  np.testing.assert_array_equal(counts, 10)
  # Classes have 20 images and more, in this order.
  shares = (20 + seen) / np.sum(20 + seen)
  epsilons = np.array(found["curves"]["epsilon"])
  unit = diagnostics.unit_rows(views)
  by_class = [
    diagnostics.divergence_curve(unit[of.labels == k], epsilons) for k in seen
  ]
  expected = shares @ np.array(by_class)
  np.testing.assert_allclose(found["curves"]["divergence"], expected, atol=1e-6)
  terms = found["values"]
  i = np.argmin(np.abs(2 * epsilons - terms["bound/tolerance"]))
  assert terms["bound/diverging"] == pytest.approx(
    expected[i] / shares.min(), abs=1e-5
  )
