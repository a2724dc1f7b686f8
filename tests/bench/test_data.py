"""Cases of the data benchmark; not how fast anything is."""

import argparse
import io

import numpy as np
import pytest
from PIL import Image

from jssl.bench import data, photos

SIZE_PX = 32


def test_sizes_are_those_of_imagenet():
  sizes = np.array(photos.sizes_px(20_000))
  width, height = sizes.mean(axis=0)
  assert 400 < width < 500
  assert 350 < height < 400
  np.testing.assert_array_equal(np.median(sizes, axis=0), [500, 375])
  share = np.mean((sizes == [500, 375]).all(axis=1))
  assert 0.35 < share < 0.5
  # A long tail, on both sides.
  assert 0.005 < np.mean(sizes.max(axis=1) > 1000) < 0.05
  assert 0.005 < np.mean(sizes.max(axis=1) < 150) < 0.05
  assert photos.sizes_px(50) == photos.sizes_px(50)


def test_a_jpeg_is_as_large_as_a_photograph():
  file = photos.jpeg(np.random.default_rng(0), 500, 375)
  assert 80e3 < len(file) < 140e3
  assert file == photos.jpeg(np.random.default_rng(0), 500, 375)
  with Image.open(io.BytesIO(file)) as image:
    assert (image.size, image.mode) == ((500, 375), "RGB")
    pixels = np.asarray(image.convert("L"), np.float32)
  # Smooth over some pixels, with the full range over the image.
  neighbours = np.corrcoef(pixels[:, 1:].ravel(), pixels[:, :-1].ravel())[0, 1]
  far = np.corrcoef(pixels[:, 50:].ravel(), pixels[:, :-50].ravel())[0, 1]
  assert neighbours > 0.7 > far > 0
  assert np.ptp(pixels) > 200


@pytest.fixture(scope="module")
def small_photos():
  """Makes the drawn photographs an eighth as large in each direction."""
  sizes = photos.sizes_px
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      photos,
      "sizes_px",
      lambda number: [(w // 8, h // 8) for w, h in sizes(number)],
    )
    yield


@pytest.fixture(scope="module")
def root(small_photos, tmp_path_factory):
  folder = tmp_path_factory.mktemp("bench")
  photos.prepare_sets(folder, 24, SIZE_PX)
  return folder


def arguments(**others):
  defaults = {flag: default for flag, (default, _) in data.FLAGS.items()}
  small = {
    "images": 24,
    "image_size_px": SIZE_PX,
    "view_size_px": 24,
    "batch_size": 8,
  }
  return argparse.Namespace(**{**defaults, **small, **others})


def test_cases(root):
  cases = {case.name: case for case in data.cases(root, arguments())}
  assert [*cases] == [
    "JPEG decoder",
    "JPEG decoder of the reader",
    "decoded to 32 px, in batches",
    *(f"batches on the device, workers: {n}" for n in (0, 1, 2)),
    "read and decoded, one thread",
    "transfer of batches to the device",
    "two views on the device",
    "batches and two views, workers: 0",
    "stored at 32 px: JPEG decoder",
    *(
      f"stored at 32 px: batches on the device, workers: {n}" for n in (0, 1, 2)
    ),
  ]
  for name, case in cases.items():
    if not name.endswith(("1", "2")):
      timing = case.run()
      # Transfers take next to no time and are repeated.
      repeats = 8 if name.startswith("transfer") else 1
      assert timing.items == 24 * repeats, name
      assert timing.cpu_s > 0


def test_torchvision_runs_in_an_environment_of_its_own(tmp_path):
  """A program stands in for its Python, and reports its arguments."""
  python = tmp_path / "python"
  timing = '{"wall_s": 2.0, "cpu_s": 1.0, "items": 256}'
  python.write_text(
    f"#!/bin/sh\necho \"$@\" >> {tmp_path}/calls\necho '{timing}'\n"
  )
  python.chmod(0o755)
  cases = list(data._torchvision(str(python), tmp_path / "photos"))
  assert [case.name for case in cases] == [
    "torchvision, resized to 256 px, workers: 1",
    "torchvision, two views, workers: 1",
  ]
  assert [case.run().items for case in cases] == [256, 256]
  calls = (tmp_path / "calls").read_text().splitlines()
  script = data.torchvision_loader.__file__
  assert calls == [
    f"{script} {tmp_path}/photos squares 1",
    f"{script} {tmp_path}/photos views 1",
  ]


def test_run(small_photos):
  report = data.run(arguments(rounds=1, only="decoded,read"))
  assert [row["case"] for row in report.rows] == [
    "JPEG decoder",
    "decoded to 32 px, in batches",
    "read and decoded, one thread",
  ]
  assert report.about["mean kB"] > 1
  assert report.rows[0]["rounds"][0]["items"] == 24


def test_overhead_of_grain():
  rates = {
    "JPEG decoder": 1000.0,
    "read and decoded, one thread": 500.0,
    "transfer of batches to the device": 10_000.0,
    "batches on the device, workers: 0": 400.0,
    "batches on the device, workers: 1": 250.0,
  }
  rows = [{"case": k, "images/s and core": rate} for k, rate in rates.items()]
  overhead = data._grain_overhead(rows)
  assert overhead == {
    "Grain's overhead, ms per image, workers: 0": pytest.approx(0.4),
    "Grain's overhead, ms per image, workers: 1": pytest.approx(1.9),
  }
  assert data._grain_overhead(rows[:2]) == {}
