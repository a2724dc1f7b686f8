import base64
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image
from report.conftest import write_features

from jssl import rng
from jssl.augment import Augment, views
from jssl.checkpoint import Checkpoints
from jssl.config.parse import parse
from jssl.config.schema import Config
from jssl.data.embedded import cluttered_digits
from jssl.models.backbone import init_variables
from jssl.probe import features
from jssl.report import samples
from jssl.report.read import read


@pytest.mark.parametrize(
  ("changes", "by_view"),
  [
    ({}, {}),
    (
      {
        "blur_probability": [1.0, 0.0],
        "num_small": 2,
        "small_crop_size_px": 8,
      },
      {"blur_probability": (1.0, 0.0, 1.0)},
    ),
  ],
  ids=["alike", "BYOL's blur and small crops"],
)
def test_views_are_those_of_the_run(config, changes, by_view):
  config["augment"] |= changes
  pixels, drawn = samples.augmented(
    parse(config, Config), images=3, num_views=3
  )
  assert pixels.shape == (3, 32, 32, 3)
  assert drawn.shape == (3, 3, 24, 24, 3)
  stored = cluttered_digits("train").images.reshape(20_000, -1)
  assert all((stored == p.reshape(1, -1)).all(1).any() for p in pixels)
  keys = rng.per_row(rng.stream(jax.random.key(3), "augment", 0), 3)
  augment = Augment(crop_size_px=24, crop_min_area=0.5, **by_view)
  (expected,) = jax.jit(
    views,
    static_argnums=(0, 3),
    compiler_options={"xla_backend_optimization_level": 0},
  )(augment, keys, pixels, 3)
  np.testing.assert_allclose(drawn, 255 * np.asarray(expected), atol=0.51)


def test_augmented_without_the_data_set(config, tmp_path):
  config["data"] |= {"name": "not_prepared", "data_dir": str(tmp_path)}
  with pytest.raises(FileNotFoundError, match="not_prepared"):
    samples.augmented(parse(config, Config), images=3, num_views=2)


def kept(workdir, **changes):
  settings = {"step": 20, "limit": 1000, "classes": 20, **changes}
  return samples.cached_features(read(workdir), "cluttered_digits", **settings)


def test_finds_the_features_of_a_step(workdir):
  found = kept(workdir)
  assert found.h.shape == (60, 6)
  np.testing.assert_array_equal(np.bincount(found.labels), 6)
  assert found.class_names == tuple("0123456789")
  assert kept(workdir, step=40) is None


def test_features_are_pooled_ones(workdir):
  """Before the columns that other `probe.features` add to the cache."""
  path = workdir / "features" / "cluttered_digits-test-step20-0a1b.npy"
  write_features(workdir, 20, d=40)
  h, _, _ = features.cached(path, num_classes=0)
  found = kept(workdir)
  np.testing.assert_array_equal(found.h, h[found.rows, :16])


def test_rows_and_labels_stay_together(workdir):
  path = workdir / "features" / "cluttered_digits-test-step20-0a1b.npy"
  h, labels, _ = features.cached(path, num_classes=0)
  found = kept(workdir, limit=7)
  assert len(found.h) == len({row.tobytes() for row in found.h}) == 7
  for row, label in zip(found.h, found.labels, strict=True):
    assert labels[(h == row).all(1)] == [label]


def test_leaves_out_later_classes_and_images_without_a_label(workdir):
  path = workdir / "features" / "cluttered_digits-test-step20-0a1b.npy"
  h, labels, _ = features.cached(path, num_classes=0)
  h = np.array(h)
  features.write(path, 60, [(h, np.where(labels == 0, -1, labels))])
  assert {*kept(workdir, classes=3).labels} == {1, 2}
  features.write(path, 60, [(h, np.full_like(labels, -1))])
  assert kept(workdir).class_names == ("unlabelled",)
  assert {*kept(workdir).labels} == {0}


def test_damaged_features_are_not_drawn(workdir, caplog):
  path = workdir / "features" / "cluttered_digits-test-step20-0a1b.npy"
  path.write_bytes(path.read_bytes()[:-1])
  assert kept(workdir) is None
  assert f"damaged features in {path}" in caplog.text


def test_a_set_that_is_not_here_has_numbers_for_names(workdir):
  for path in [*(workdir / "features").iterdir()]:
    path.rename(path.with_name(path.name.replace("cluttered_digits", "gone")))
  found = samples.cached_features(
    read(workdir), "gone", step=20, limit=9, classes=20
  )
  assert found.class_names[:2] == ("0", "1")


def test_neighbours_are_the_most_similar_images(workdir):
  found = kept(workdir)
  names = [
    [p.name for p in row]
    for row in samples.nearest(found, queries=12, neighbours=3)
  ]
  # Features of a class are alike, and no class has fewer than 4 images.
  assert [row[0] for row in names[:10]] == list("0123456789")
  assert all(len({*row}) == 1 and len(row) == 4 for row in names)
  unit = found.h / np.linalg.norm(found.h, axis=1, keepdims=True)
  query = int(np.flatnonzero(found.labels == 0)[0])
  order = np.argsort(-(unit @ unit[query]))[:4]
  images = cluttered_digits("test").images[found.rows[order]]
  pictures = samples.nearest(found, queries=1, neighbours=3)[0]
  assert [p.uri for p in pictures] == [
    samples.data_uri(image[None, None]) for image in images
  ]
  absent = found._replace(source=None)
  assert samples.nearest(absent, queries=1, neighbours=3) == []


def test_token_maps(workdir, config):
  config["model"] |= {"class_token": True}
  (workdir / "config.json").write_text(json.dumps(config))
  run = read(workdir)
  backbone = run.config.model.backbone()
  with Checkpoints(workdir, keep_last=1, keep_every_steps=None) as checkpoints:
    checkpoints.save(20, {"backbone": init_variables(0, backbone, (24, 24, 3))})
  rows = dict(samples.token_maps(run, 20, images=3))
  shapes = {name: row.shape for name, row in rows.items()}
  assert shapes == {
    "images": (3, 24, 24, 3),
    "PCA": (3, 24, 24, 3),
    "attention": (3, 24, 24, 1),
  }
  for name in ("PCA", "attention"):
    patches = rows[name].reshape(3, 3, 8, 3, 8, -1)
    assert (patches == patches[:, :, :1, :, :1]).all()
    assert patches.max() == 255
    assert len(np.unique(patches[:, :, 0, :, 0])) > 9
  with pytest.raises(FileNotFoundError, match="no checkpoint of step 40"):
    samples.token_maps(run, 40, images=3)


def test_map_keeps_classes_that_lie_apart_apart():
  generator = np.random.default_rng(0)
  labels = np.arange(90) % 3
  h = 10 * np.eye(3, 60)[labels] + generator.normal(size=(90, 60))
  xy = samples.project_2d(h.astype(np.float32))
  assert xy.shape == (90, 2)
  distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
  np.fill_diagonal(distance, np.inf)
  nearest = labels[np.argmin(distance, axis=1)]
  assert np.mean(nearest == labels) > 0.95


def test_map_of_four_images():
  h = np.random.default_rng(0).normal(size=(4, 3))
  assert np.isfinite(samples.project_2d(h)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_data_uri_lays_images_out_by_row(channels):
  shape = (2, 3, 4, 5, channels)
  tiles = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
  kind, content = samples.data_uri(tiles, gap_px=1).split(",")
  assert kind == "data:image/png;base64"
  sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
  assert sheet.shape[:2] == (2 * 5 - 1, 3 * 6 - 1)
  tile = sheet[5:9, 12:17].reshape(4, 5, channels)
  np.testing.assert_array_equal(tile, tiles[1, 2])
  assert (sheet[4] == 255).all()
