"""The loop on real checkpoint files; the backbone is one small matrix."""

import json
import os
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.probe import SETTINGS
from probe.made import diagnostics_record

from jssl import checkpoint
from jssl.augment import corruptions
from jssl.config.parse import parse, to_dict
from jssl.config.schema import Config
from jssl.data.source import InMemory, SegmentedInMemory
from jssl.models import ViT
from jssl.models.backbone import Backbone, init_variables
from jssl.models.tokens import Encoded, Grid
from jssl.probe import dataset, robustness, runner
from jssl.probe.accuracy import accuracy_table
from jssl.probe.record_file import RecordFile
from jssl.runtime.workdir import claim_workdir, lock

SHAPE = (4, 4, 1)


def init(key, image_shape):
  return {"params": {"w": jax.random.normal(key, (np.prod(image_shape), 6))}}


def apply(variables, images, *, train, key=None):
  assert not train
  w = variables["params"]["w"]
  return Encoded(images.reshape(len(images), -1) @ w), variables


BACKBONE = Backbone(init, apply, 6)


def tiny(name, split, classes=4, channels=1):
  # The sizes of the other tests, so that what they compiled serves here too.
  rows = {"train": 302, "test": 203}[split]
  rng = np.random.default_rng(rows)
  labels = (np.arange(rows) % 4).astype(np.int32)
  images = rng.integers(0, 120, (rows, 4, 4, channels), dtype=np.uint8)
  images[np.arange(rows), labels, labels] += 100
  return InMemory(name, tuple("abcd"[:classes]), images, labels)


CONFIG = {
  "data": {"name": "tiny", "batch_size": 8, "image_size_px": 4},
  "augment": {"crop_size_px": 4, "crop_min_area": 0.5},
  "model": {
    **{"name": "vit", "patch_size_px": 2, "width": 6},
    **{"depth": 1, "num_heads": 1},
  },
  "objective": {
    **{"name": "simclr", "temperature": 0.2},
    **{"projector": {"hidden_dims": (), "out_dim": 3}},
  },
  "optim": {"name": "adamw", "learning_rate": 1e-3},
  "train": {"steps": 20},
  "checkpoint": {"every_steps": 10},
  "probe": {
    **SETTINGS,
    "probes": ("linear",),
    "label_fractions": (),
    "batch_size": 64,
    "pixel_dims": 6,
  },
}


def save(workdir, *steps, broken=None):
  with checkpoint.Checkpoints(
    workdir, keep_last=9, keep_every_steps=None
  ) as checkpoints:
    for step in steps:
      variables = init_variables(step, BACKBONE, SHAPE)
      if step == broken:
        variables = jax.tree.map(lambda x: x * jnp.nan, variables)
      checkpoints.save(step, {"backbone": variables})


def claim(
  workdir, objective=CONFIG["objective"], model=CONFIG["model"], **probe
):
  config = {
    **CONFIG,
    "objective": objective,
    "model": model,
    "probe": {**CONFIG["probe"], **probe},
  }
  (workdir / "config.json").unlink(missing_ok=True)
  claim_workdir(to_dict(parse(config, Config)), workdir)


@pytest.fixture
def workdir(tmp_path, monkeypatch, one_device):
  def source(data, split):
    if data.name == "unlabelled":
      return tiny("unlabelled", split, classes=0)
    if data.name == "coloured":
      return tiny("coloured", split, channels=3)
    return tiny(data.name, split)

  monkeypatch.setattr(dataset, "open_split", source)
  monkeypatch.setattr(ViT, "backbone", lambda self: BACKBONE)
  # Eight devices of one processor wait for each other.
  monkeypatch.setattr(dataset.mesh_lib, "make_mesh", lambda *_: one_device)
  claim(tmp_path)
  return tmp_path


def rows(workdir):
  lines = (workdir / "probe.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def save_teacher(workdir, *steps):
  """Checkpoints whose students have seed `step`, and teachers `step + 1`."""
  with checkpoint.Checkpoints(
    workdir, keep_last=9, keep_every_steps=None
  ) as checkpoints:
    for step in steps:
      student, teacher = (
        init_variables(seed, BACKBONE, SHAPE) for seed in (step, step + 1)
      )
      training = {"teacher": teacher, "opt_state": (jnp.ones(5),)}
      checkpoints.save(step, {"backbone": student, "training": training})


def subjects(workdir):
  return {(r["features"], r["step"], r["dataset"]) for r in rows(workdir)}


def run(workdir, **options):
  lines = []
  runner.run(workdir, log=lines.append, **options)
  return lines


def damage(workdir, step):
  for path in (workdir / "checkpoints" / str(step)).rglob("*"):
    if path.is_file() and path.name != "manifest.json":
      path.write_bytes(b"")


def test_the_classifier_of_a_run_is_evaluated_on_its_own_set(workdir):
  claim(workdir, objective={"name": "supervised"}, baselines=())
  variables = init_variables(10, BACKBONE, SHAPE)
  kernel = jax.random.normal(jax.random.key(0), (6, 4))
  layer = {"kernel": kernel, "bias": jnp.arange(4.0)}
  objective = {"params": {"classifier": layer}, "state": {}}
  with checkpoint.Checkpoints(
    workdir, keep_last=9, keep_every_steps=None
  ) as checkpoints:
    checkpoints.save(10, {"backbone": variables, "objective": objective})
  run(workdir)
  lines = run(workdir, dataset="other")
  (found,) = [r for r in rows(workdir) if r.get("probe") == "classifier"]
  assert (found["dataset"], found["step"]) == ("tiny", 10)
  source = tiny("tiny", "test")
  w, z = np.asarray(variables["params"]["w"]), np.asarray(kernel)
  h = source.images.reshape(len(source), -1) / 255 @ w
  guesses = np.argmax(h @ z + np.arange(4), axis=1)
  accuracy = found["test_accuracy"]
  np.testing.assert_allclose(accuracy, np.mean(guesses == source.labels))
  assert 0.1 < accuracy < 0.9
  # No images were held out of its training.
  assert found["validation_accuracy"] is None
  assert "classifier" not in lines[-1]
  table = accuracy_table(RecordFile(workdir).read(), "tiny")
  assert table.headings[-1] == "classifier"


def test_rows_have_what_readers_need(workdir):
  claim(workdir, probes=("linear", "knn", "mlp"), label_fractions=(0.2,))
  save(workdir, 10, 20)
  lines = run(workdir)
  assert subjects(workdir) == {
    ("pixels", 0, "tiny"),
    ("random", 0, "tiny"),
    ("backbone", 10, "tiny"),
    ("backbone", 20, "tiny"),
  }
  spectra = [r for r in rows(workdir) if r["record"] == "spectrum"]
  assert len(spectra) == 4
  for row in spectra:
    assert len(row["singular_values"]) == 6
    assert 0.5 < row["collapse_auc"] <= 1
  fits = [r for r in rows(workdir) if r["record"] == "probe"]
  assert [(r["probe"], r["label_fraction"]) for r in fits] == 4 * [
    ("linear", 1.0),
    ("knn", 1.0),
    ("mlp", 1.0),
    ("linear", 0.2),
  ]
  for row in fits:
    assert 0 <= row["test_accuracy"] <= 1
    assert 0 <= row["validation_accuracy"] <= 1
    assert row["test_accuracy_std"] >= 0
    assert row["seeds"] == 2
    assert row["seconds"] > 0
    assert all(len(values) == 2 for values in row["chosen"].values())
  table = lines[-1].splitlines()
  assert [line.split("  ")[0] for line in table[2:]] == [
    "raw pixels",
    "random backbone",
    "pretrained, step 10",
    "pretrained, step 20",
  ]


def test_features_are_those_of_the_checkpoint(workdir, tmp_path):
  save(workdir, 10, 20)
  run(workdir, export=str(tmp_path / "f.npz"))
  w = init_variables(20, BACKBONE, SHAPE)["params"]["w"]
  with np.load(tmp_path / "f.npz") as arrays:
    for split in ("train", "test"):
      source = tiny("tiny", split)
      expected = source.images.reshape(len(source), -1) / np.float32(255) @ w
      np.testing.assert_allclose(
        arrays[f"{split}_features"], expected, atol=1e-5
      )
      np.testing.assert_array_equal(arrays[f"{split}_labels"], source.labels)


BYOL = {
  "name": "byol",
  "projector": {"hidden_dims": (), "out_dim": 3},
  "predictor": {"hidden_dims": (), "out_dim": 3},
}


def test_the_teacher_is_evaluated_and_the_student_beside_it(workdir, tmp_path):
  claim(workdir, objective=BYOL, probes=("linear", "mlp"), pixel_dims=0)
  save_teacher(workdir, 10, 20)
  lines = run(workdir, export=str(tmp_path / "f.npz"))
  assert lines[-1].startswith("Wrote features of the teacher of step 20 to ")
  with np.load(tmp_path / "f.npz") as arrays:
    source = tiny("tiny", "test")
    w = init_variables(21, BACKBONE, SHAPE)["params"]["w"]
    expected = source.images.reshape(len(source), -1) / np.float32(255) @ w
    np.testing.assert_allclose(arrays["test_features"], expected, atol=1e-5)
    assert arrays["backbone"] == "teacher"
  probes = {
    (r["features"], r["backbone"], r["step"]): set()
    for r in rows(workdir)
    if r["record"] == "probe"
  }
  for r in rows(workdir):
    if r["record"] == "probe":
      probes[r["features"], r["backbone"], r["step"]].add(r["probe"])
  both = {"linear", "mlp"}
  assert probes == {
    ("pixels", "", 0): both,
    ("random", "", 0): both,
    **{("backbone", "teacher", step): both for step in (10, 20)},
    **{("student", "student", step): {"linear"} for step in (10, 20)},
  }
  spectra = [r for r in rows(workdir) if r["record"] == "spectrum"]
  assert {r["backbone"] for r in spectra} == {"", "teacher"}
  scores = {
    r["step"]: r["validation_accuracy"]
    for r in rows(workdir)
    if (r["record"], r["backbone"]) == ("probe", "teacher")
    and r["probe"] == "linear"
  }
  assert checkpoint.best_step(workdir) == max(scores, key=scores.get)
  table = lines[-3].splitlines()
  assert [line.split("  ")[0] for line in table[-4:]] == [
    "pretrained (student), step 10",
    "pretrained (student), step 20",
    "pretrained (teacher), step 10",
    "pretrained (teacher), step 20",
  ]
  # Once, and the features of a deleted checkpoint are removed.
  assert len(run(workdir)) == 2
  kept = workdir / "features"
  assert len([*kept.glob("*-step10-teacher-*")]) == 4
  assert len([*kept.glob("*-step10-student-*")]) == 4
  shutil.rmtree(workdir / "checkpoints" / "10")
  run(workdir, overwrite=True)
  assert not [*kept.glob("*step10*")]


def test_records_of_the_student_by_an_earlier_version_are_replaced(workdir):
  claim(workdir, objective=BYOL)
  save_teacher(workdir, 10)
  run(workdir)
  file = workdir / "probe.jsonl"
  found = [r for r in rows(workdir) if r["features"] != "student"]
  for row in found:
    del row["backbone"]
  file.write_text("".join(json.dumps(row) + "\n" for row in found))
  lines = run(workdir)
  assert sum(line.startswith("step10-teacher") for line in lines) == 2
  assert not any("random" in line for line in lines[:-2])
  assert {r["backbone"] for r in rows(workdir)} == {"", "teacher", "student"}


def _vit_apply(variables, images, *, train, tokens=False, blocks=0):
  """Tokens and blocks that are known multiples of the pooled feature."""
  (pooled, *_), _ = apply(variables, images, train=train)
  if not tokens:
    return Encoded(pooled), variables
  factors = np.arange(-blocks, 0)[None, :, None]
  return Encoded(
    pooled,
    tokens=pooled[:, None] * np.array([[[2.0], [4.0]]]),
    blocks=pooled[:, None] * factors,
  ), variables


def test_one_cache_serves_all_features_of_tokens(
  workdir, monkeypatch, tmp_path
):
  grid = Grid(rows=1, columns=2, width=6, patch_size_px=2)
  vit = Backbone(init, _vit_apply, 6, lambda shape: grid)
  monkeypatch.setattr(ViT, "backbone", lambda self: vit)
  model = {**CONFIG["model"], "depth": 4}
  save(workdir, 10)
  factors = {
    ("pooled", 1): [1],
    ("mean", 1): [3],
    ("cls", 1): [-1],
    ("cls", 4): [-4, -3, -2, -1],
    ("cls_mean", 1): [-1, 3],
    ("cls_mean", 4): [-4, -3, -2, -1, 3],
  }
  kept = []
  for (name, blocks), expected in factors.items():
    claim(workdir, model=model, features=name, blocks=blocks)
    lines = run(workdir, export=str(tmp_path / "f.npz"))
    # Other features are measured anew, in place of the others.
    assert any(line.startswith("step10") for line in lines)
    with np.load(tmp_path / "f.npz") as arrays:
      found = arrays["test_features"]
    source = tiny("tiny", "test")
    w = init_variables(10, BACKBONE, SHAPE)["params"]["w"]
    pooled = source.images.reshape(len(source), -1) / np.float32(255) @ w
    np.testing.assert_allclose(
      found, np.concatenate([f * pooled for f in expected], 1), atol=1e-4
    )
    kept.append({*(workdir / "features").glob("*step10*")})
  # The pooled features of the default, then one cache for all others.
  assert len(kept[0]) == 4
  assert all(paths == kept[1] for paths in kept[1:])
  assert len(kept[1]) == 8
  fits = [r for r in rows(workdir) if r["record"] == "probe"]
  assert {r["features"]: r["vectors"] for r in fits} == {
    "pixels": "pooled",
    "random": "cls_mean of 4 blocks",
    "backbone": "cls_mean of 4 blocks",
  }
  spectra = [r for r in rows(workdir) if r["record"] == "spectrum"]
  assert all(len(r["singular_values"]) == 6 for r in spectra)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"features": "cls"},
      r'probe\.features="cls": expected "pooled".*model\.n',
    ),
    ({"features": "cls", "blocks": 4}, r"probe\.blocks=4: .*model\.depth=1"),
  ],
)
def test_features_that_a_backbone_does_not_have_are_refused(
  workdir, monkeypatch, changes, message
):
  if "blocks" in changes:
    grid = Grid(rows=1, columns=2, width=6, patch_size_px=2)
    vit = Backbone(init, _vit_apply, 6, lambda shape: grid)
    monkeypatch.setattr(ViT, "backbone", lambda self: vit)
  claim(workdir, **changes)
  save(workdir, 10)
  with pytest.raises(ValueError, match=message):
    run(workdir)


def test_what_was_probed_is_not_probed_again(workdir):
  save(workdir, 10)
  run(workdir)
  before = rows(workdir)
  save(workdir, 20)
  lines = run(workdir)
  assert rows(workdir)[: len(before)] == before
  assert not any("step10" in line for line in lines)
  assert ("backbone", 20, "tiny") in subjects(workdir)
  run(workdir, overwrite=True)
  assert len(rows(workdir)) == len(before) + 4
  assert all(
    new["time"] > old["time"]
    for new, old in zip(rows(workdir), before, strict=False)
    if "time" in old
  )


def test_another_number_of_neighbours_is_measured(workdir):
  save(workdir, 10)
  # At most the 302 train images.
  for k, measured in ((5, 5), (400, 302), (500, 302), (0, 302)):
    claim(workdir, retrieval_neighbours=k, baselines=())
    before = len(rows(workdir)) if k > 5 else 0
    lines = run(workdir)
    assert any("step10" in line for line in lines) == (k in (5, 400))
    (found,) = [r for r in rows(workdir) if r["record"] == "retrieval"]
    assert found["neighbours"] == measured
    assert len(rows(workdir)) == (before or len(rows(workdir)))


def test_features_that_are_not_finite_are_told_of_and_passed_over(workdir):
  save(workdir, 5, 10, 20, broken=10)
  lines = run(workdir, follow=True)
  reason = "302 of 302 rows of features are not finite"
  assert sum(reason in line for line in lines) == 2
  found = {r["part"]: r for r in rows(workdir) if r["step"] == 10}
  assert found.keys() == {"spectrum", "probe"}
  for row in found.values():
    assert row["record"] == "not_measured"
    assert reason in row["reason"]
  assert {r["step"] for r in rows(workdir) if r["record"] == "probe"} == {
    0,
    5,
    20,
  }
  assert checkpoint.best_step(workdir) in (5, 20)
  # It stays so, and is not tried again.
  assert not any("step10" in line for line in run(workdir))


def test_what_was_not_measured_is_tried_with_other_features(
  workdir, monkeypatch
):
  grid = Grid(rows=1, columns=2, width=6, patch_size_px=2)
  vit = Backbone(init, _vit_apply, 6, lambda shape: grid)
  monkeypatch.setattr(ViT, "backbone", lambda self: vit)
  save(workdir, 5, 10, broken=10)
  run(workdir)
  claim(workdir, features="mean")
  # The spectrum is of pooled features.
  (line,) = (x for x in run(workdir) if x.startswith("step10"))
  assert "probe not measured" in line
  (row,) = (r for r in rows(workdir) if (r["step"], r["part"]) == (10, "probe"))
  assert row["settings"] == {"vectors": "mean", "neighbours": 100}
  assert not any(x.startswith("step10") for x in run(workdir))


def test_the_best_by_validation_is_pinned(workdir):
  save(workdir, 10, 20)
  run(workdir)
  scores = {
    r["step"]: r["validation_accuracy"]
    for r in rows(workdir)
    if r["features"] == "backbone"
    and r["record"] == "probe"
    and r["probe"] == "linear"
    and r["label_fraction"] == 1
  }
  assert checkpoint.best_step(workdir) == max(scores, key=scores.get)


def test_the_best_by_a_rule_without_labels_is_pinned(workdir, monkeypatch):
  ranks = {10: 9.0, 20: 4.0}
  monkeypatch.setattr(
    runner.Runner,
    "_diagnose",
    lambda self, found: [
      diagnostics_record(
        found.encoder.step,
        "backbone",
        features=found.encoder.kind,
        backbone=found.encoder.backbone,
        dataset="tiny",
        values={"rank_me": ranks.get(found.encoder.step, 99.0)},
      )
    ],
  )
  config = json.loads((workdir / "config.json").read_text())
  config["probe"]["select_by"] = "rank_me"
  (workdir / "config.json").write_text(json.dumps(config))
  save(workdir, 10, 20)
  with pytest.raises(ValueError, match='select_by="rank_me" needs --diagnos'):
    run(workdir)
  run(workdir, diagnostics=True)
  best = json.loads((workdir / "best.json").read_text())
  assert best == {"step": 10, "score": 9.0, "features": "student, rank_me"}


def test_another_set_has_its_own_rows_and_does_not_pin(workdir):
  save(workdir, 10)
  run(workdir, dataset="other")
  assert {name for _, _, name in subjects(workdir)} == {"other"}
  assert checkpoint.best_step(workdir) is None
  run(workdir)
  assert {name for _, _, name in subjects(workdir)} == {"other", "tiny"}


def test_another_set_may_have_another_test_split(workdir, monkeypatch):
  opened, source = [], dataset.open_split

  def watched(data, split):
    opened.append(split)
    return source(data, "test" if split == "validation" else split)

  monkeypatch.setattr(dataset, "open_split", watched)
  save(workdir, 10)
  run(workdir, dataset="other", test_split="validation")
  assert opened == ["train", "validation"]
  with pytest.raises(ValueError, match="=validation needs a --dataset"):
    run(workdir, test_split="validation")


def test_images_that_were_fitted_are_no_test_set(workdir):
  save(workdir, 10)
  message = "data.test_split='train' has images of data.split='train'"
  with pytest.raises(ValueError, match=message):
    run(workdir, dataset="other", test_split="train")
  config = json.loads((workdir / "config.json").read_text())
  config["data"]["test_split"] = "train"
  (workdir / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match=rf"config\.json is .*{message}"):
    run(workdir)
  assert not (workdir / "probe.jsonl").exists()


def test_kept_features_are_used_only_for_the_same_weights(workdir, tmp_path):
  save(workdir, 10)
  run(workdir, export=str(tmp_path / "one.npz"))
  kept = {p: p.stat().st_mtime_ns for p in (workdir / "features").iterdir()}
  run(workdir, overwrite=True)
  assert kept == {
    p: p.stat().st_mtime_ns for p in (workdir / "features").iterdir()
  }
  # Another run in the same place has a checkpoint of the same step.
  shutil.rmtree(workdir / "checkpoints")
  save(workdir, 11)
  shutil.move(workdir / "checkpoints" / "11", workdir / "checkpoints" / "10")
  run(workdir, overwrite=True, export=str(tmp_path / "two.npz"))
  with (
    np.load(tmp_path / "one.npz") as one,
    np.load(tmp_path / "two.npz") as two,
  ):
    assert np.any(one["train_features"] != two["train_features"])


def test_where_the_time_went_is_written(workdir, monkeypatch):
  save(workdir, 10)
  sleep, naps = time.sleep, []

  def nap(_):
    started = time.perf_counter()
    sleep(0.2)
    save(workdir, 20)
    naps.append(time.perf_counter() - started)

  monkeypatch.setattr(runner.time, "sleep", nap)
  run(workdir, follow=True)
  (row,) = map(json.loads, (workdir / runner.GOODPUT).read_text().splitlines())
  kinds = (*runner.GOODPUT_KINDS, "compile", "other")
  assert sum(row[kind] for kind in kinds) == pytest.approx(row["seconds"])
  assert all(row[kind] > 0 for kind in kinds if kind != "diagnostics")
  assert row["diagnostics"] == 0
  # The wait for the training, and little else.
  rest = row["seconds"] - sum(naps)
  assert sum(naps) <= row["wait"] < sum(naps) + rest / 2


def test_following_ends_with_the_last_step(workdir, monkeypatch):
  monkeypatch.setattr(runner.time, "sleep", lambda _: save(workdir, 20))
  save(workdir, 10)
  run(workdir, follow=True)
  assert {s for kind, s, _ in subjects(workdir) if kind == "backbone"} == {
    10,
    20,
  }


def test_following_waits_for_the_run(workdir, monkeypatch):
  config = workdir / "config.json"
  hidden = config.rename(workdir / "hidden")

  def wait(_):
    if hidden.exists():
      hidden.rename(config)
    else:
      save(workdir, 20)

  monkeypatch.setattr(runner.time, "sleep", wait)
  run(workdir, follow=True)
  assert ("backbone", 20, "tiny") in subjects(workdir)


@pytest.mark.parametrize("left", [None, "manifest.json"])
def test_a_checkpoint_deleted_meanwhile_is_skipped(workdir, monkeypatch, left):
  """Its manifest may be the last file that goes."""
  save(workdir, 10, 20)
  folder = workdir / "checkpoints" / "10"
  restore = checkpoint.restore_backbone

  def late(workdir, step):
    if step == 10:
      manifest = (folder / "manifest.json").read_bytes()
      shutil.rmtree(folder)
      if left:
        folder.mkdir()
        (folder / left).write_bytes(manifest)
    return restore(workdir, step)

  def finish_deleting(seconds):
    del seconds
    shutil.rmtree(folder, ignore_errors=True)

  monkeypatch.setattr(checkpoint, "restore_backbone", late)
  monkeypatch.setattr(runner.time, "sleep", finish_deleting)
  lines = run(workdir)
  assert "Skipped step 10: deleted before it was probed." in lines
  assert ("backbone", 20, "tiny") in subjects(workdir)


def test_a_checkpoint_that_is_being_deleted_is_skipped(workdir, monkeypatch):
  save(workdir, 10, 20)
  restore = checkpoint.restore_backbone

  def late(workdir, step):
    if step == 10:
      raise FileNotFoundError("a file of step 10")
    return restore(workdir, step)

  # The manifest goes last.
  monkeypatch.setattr(checkpoint, "restore_backbone", late)
  monkeypatch.setattr(
    runner.time,
    "sleep",
    lambda _: shutil.rmtree(workdir / "checkpoints" / "10"),
  )
  lines = run(workdir)
  assert "Skipped step 10: deleted before it was probed." in lines
  assert ("backbone", 20, "tiny") in subjects(workdir)


def test_the_best_of_the_checkpoints_that_exist_is_pinned(workdir):
  save(workdir, 10, 20)
  run(workdir)
  best = checkpoint.best_step(workdir)
  # The score of an earlier version may be of other features.
  (workdir / "best.json").write_text(f'{{"step": {30 - best}, "score": 1.0}}')
  run(workdir)
  assert checkpoint.best_step(workdir) == best
  shutil.rmtree(workdir / "checkpoints" / str(best))
  (workdir / "best.json").write_text("damaged")
  run(workdir)
  assert checkpoint.best_step(workdir) == 30 - best


def test_a_damaged_checkpoint_is_told_and_skipped(workdir):
  save(workdir, 10, 20)
  damage(workdir, 10)
  lines = run(workdir)
  assert any("Skipped a damaged checkpoint" in line for line in lines)
  assert ("backbone", 10, "tiny") not in subjects(workdir)
  assert ("backbone", 20, "tiny") in subjects(workdir)


def test_no_readable_checkpoint_is_an_error(workdir):
  save(workdir, 10)
  damage(workdir, 10)
  with pytest.raises(checkpoint.CheckpointError, match="no checkpoint"):
    run(workdir)


def test_too_little_memory_is_one_line(workdir, monkeypatch):
  def exhaust(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes.\nBuffers:")

  monkeypatch.setattr(dataset.features, "extract", exhaust)
  save(workdir, 10)
  match = r"^the probe .*9 bytes\. Lower --config\.probe\.batch_size .*_gib$"
  with pytest.raises(ValueError, match=match):
    run(workdir)


def test_no_checkpoint_is_an_error(workdir):
  with pytest.raises(FileNotFoundError, match="--follow"):
    run(workdir)


def test_a_second_probe_is_refused(workdir):
  save(workdir, 10)
  with lock(workdir, "probe.lock"):
    with pytest.raises(ValueError, match=r"in use by process .*probe\.lock"):
      run(workdir)
    assert not (workdir / "probe.jsonl").exists()
  with lock(workdir, "lock"):  # Of a training.
    run(workdir)
  assert (workdir / "probe.jsonl").exists()


def test_a_directory_that_is_no_run_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
    run(tmp_path)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("text", ["", "[]", '{"data": {"batch_size": 4}}'])
def test_a_damaged_config_is_named(workdir, text):
  save(workdir, 10)
  (workdir / "config.json").write_text(text)
  with pytest.raises(ValueError, match=rf"^{workdir}/config\.json is "):
    run(workdir)


@pytest.mark.parametrize(
  ("dataset", "message"),
  [
    ("unlabelled", "unlabelled has no labels.*--dataset"),
    ("coloured", r"not pretrained on images of shape \(4, 4, 3\)"),
  ],
)
def test_a_set_that_does_not_fit_is_told(workdir, dataset, message):
  save(workdir, 10)
  with pytest.raises(ValueError, match=message):
    run(workdir, dataset=dataset)


def test_probing_does_not_import_the_training():
  code = "import sys, jssl.probe.runner; print('jssl.train' in sys.modules)"
  found = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert found.stdout.strip() == "False"


@pytest.mark.parametrize(
  ("workdir", "count", "message"),
  [
    ("", "1", "error: "),
    # It would wait for a run in a folder "s3:".
    ("s3://bucket/W", "1", "error: --workdir=s3://bucket/W: expected a folder"),
    ("", "2", "error: JAX_NUM_PROCESSES=2"),
  ],
)
def test_errors_become_an_exit_status(tmp_path, workdir, count, message):
  flags = [f"--workdir={workdir or tmp_path}", *(["--follow"] * bool(workdir))]
  done = subprocess.run(
    [sys.executable, "-m", "jssl.probe", *flags],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, "JAX_NUM_PROCESSES": count},
  )
  assert done.returncode == 1
  assert done.stderr.startswith(message)
  assert "Traceback" not in done.stderr


def test_features_follow_the_config(workdir):
  # Same weights, another view: nothing that was kept may be taken.
  save(workdir, 10)
  variables = {"params": {"w": jnp.ones((16, 6))}}
  keys = {
    runner.BackboneEncoders(
      BACKBONE,
      SHAPE,
      mesh=dataset.mesh_lib.make_mesh(1, 1),
      key=key,
    )
    .checkpoint(10, variables)
    .key
    for key in ("one", "two")
  }
  assert len(keys) == 2


def test_the_dense_probe_has_records_and_a_table(workdir, monkeypatch):
  def with_tokens(variables, images, *, train, tokens=False):
    encoded, _ = apply(variables, images, train=train)
    blocks = images.reshape(-1, 2, 2, 2, 2).swapaxes(2, 3).reshape(-1, 4, 4)
    w = variables["params"]["w"][:4]
    return encoded._replace(tokens=blocks @ w if tokens else None), variables

  def source(data, split):
    plain = tiny(data.name, split)
    masks = (plain.images[..., 0] > 100).astype(np.int8)
    # Patches of one class, which linear heads can tell apart.
    masks = masks[:, ::2, ::2].repeat(2, 1).repeat(2, 2)
    return SegmentedInMemory(
      **{k: getattr(plain, k) for k in ("name", "class_names", "labels")},
      images=plain.images // 2 + 100 * masks[..., None].astype(np.uint8),
      fetch_masks=masks.__getitem__,
    )

  backbone = Backbone(init, with_tokens, 6, lambda shape: Grid(2, 2, 6, 2))
  monkeypatch.setattr(ViT, "backbone", lambda self: backbone)
  monkeypatch.setattr(dataset, "open_split", source)
  claim(workdir, dense_images=100, baselines=("pixels",), seeds=1, probes=())
  save(workdir, 10)
  lines = run(workdir)
  found = [r for r in rows(workdir) if r["record"] == "dense"]
  assert [(r["features"], r["step"], r["probe"]) for r in found] == [
    (kind, step, probe)
    for kind, step in (("pixels", 0), ("backbone", 10))
    for probe in ("linear", "knn")
  ]
  for row in found:
    assert (row["images"], row["test_images"], row["patches"]) == (100, 100, 4)
    assert 0.5 < row["mean_iou"] <= 1
    assert row["pixel_accuracy"] > 0.8
  (table,) = [x for x in lines if "tiny: segmentation of patches in %" in x]
  assert "mean IoU, linear" in table
  names = [x[:10] for x in table.splitlines()[2:]]
  assert names == ["raw pixels", "pretrained"]
  assert run(workdir) == [table]


def test_another_set_without_masks_has_no_dense_probe(workdir, monkeypatch):
  backbone = BACKBONE._replace(grid=lambda shape: Grid(2, 2, 6, 2))
  monkeypatch.setattr(ViT, "backbone", lambda self: backbone)
  claim(workdir, dense_images=100, baselines=())
  save(workdir, 10)
  lines = run(workdir)
  assert lines[0] == "tiny has no masks: the dense probe is skipped."
  assert not [r for r in rows(workdir) if r["record"] == "dense"]


def test_robustness_has_records_and_a_table(workdir, monkeypatch):
  # Each of the 75 cases is a program.
  monkeypatch.setattr(
    robustness, "_CASES", [("contrast", 1), ("contrast", 5), ("fog", 5)]
  )
  monkeypatch.setattr(corruptions, "SMALLEST_PX", 4)
  claim(workdir, corrupted_images=150, baselines=("pixels",))
  save(workdir, 10)
  lines = run(workdir)
  found = [r for r in rows(workdir) if r["record"] == "robustness"]
  assert [(r["features"], r["step"]) for r in found] == [
    ("pixels", 0),
    ("backbone", 10),
  ]
  for row in found:
    assert (row["images"], row["image_size_px"]) == (150, 4)
    assert row["clean_accuracy"] > 0.7
    assert row["corrupted_accuracy"] < row["clean_accuracy"]
    assert [*row["accuracy"]] == ["contrast", "fog"]
    assert len(row["accuracy"]["contrast"]) == 2
  (table,) = [x for x in lines if "probe on corrupted images in %" in x]
  assert table in run(workdir)
  claim(workdir, corrupted_images=999, baselines=("pixels",))
  run(workdir)
  found = [r for r in rows(workdir) if r["record"] == "robustness"]
  assert [(r["images_requested"], r["images"]) for r in found] == 2 * [
    (999, 203)
  ]


def test_images_that_cannot_be_corrupted(workdir):
  claim(workdir, corrupted_images=10)
  save(workdir, 10)
  match = "corrupted_images=10: expected 0, .* and augment.crop_size_px=4"
  with pytest.raises(ValueError, match=match):
    run(workdir)
  line = "unlabelled has no labels: robustness is skipped."
  assert line in run(workdir, dataset="unlabelled", diagnostics=True)
