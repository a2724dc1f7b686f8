"""What the bench is made of; not how fast anything is."""

import importlib.util
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jssl.bench.data import chain, comparison, rates
from jssl.data import generated
from jssl.data.array_record import open_prepared

SIZE_PX = 32


def test_sizes_are_those_of_imagenet():
  sizes = np.array(generated.sizes_px(20_000))
  width, height = sizes.mean(axis=0)
  assert 400 < width < 500
  assert 350 < height < 400
  np.testing.assert_array_equal(np.median(sizes, axis=0), [500, 375])
  share = np.mean((sizes == [500, 375]).all(axis=1))
  assert 0.35 < share < 0.5
  # A long tail, on both sides.
  assert 0.005 < np.mean(sizes.max(axis=1) > 1000) < 0.05
  assert 0.005 < np.mean(sizes.max(axis=1) < 150) < 0.05
  assert generated.sizes_px(50) == generated.sizes_px(50)
  assert generated.sizes_px(50) != generated.sizes_px(50, seed=1)


def test_a_jpeg_is_as_heavy_as_a_photograph():
  data = generated.jpeg(np.random.default_rng(0), 500, 375)
  assert 80e3 < len(data) < 140e3
  assert data == generated.jpeg(np.random.default_rng(0), 500, 375)
  with Image.open(io.BytesIO(data)) as image:
    assert (image.size, image.mode) == ((500, 375), "RGB")
    pixels = np.asarray(image.convert("L"), np.float32)
  # Smooth over some pixels, and all of the range over the image.
  neighbours = np.corrcoef(pixels[:, 1:].ravel(), pixels[:, :-1].ravel())[0, 1]
  far = np.corrcoef(pixels[:, 50:].ravel(), pixels[:, :-50].ravel())[0, 1]
  assert neighbours > 0.7 > far > 0
  assert np.ptp(pixels) > 200


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """A folder with `photos/all/*.jpg`, and the set made of them in `data`."""
  root = tmp_path_factory.mktemp("bench")
  sizes = generated.sizes_px
  with pytest.MonkeyPatch.context() as patch:
    # An eighth of them in each direction.
    patch.setattr(
      generated,
      "sizes_px",
      lambda number, seed: [(w // 8, h // 8) for w, h in sizes(number, seed)],
    )
    chain.prepare_photos(root, 24, SIZE_PX)
  return root


def test_rows_of_the_decoder(photos):
  encoded = [p.read_bytes() for p in sorted((photos / "photos").rglob("*.jpg"))]
  assert len(encoded) == 24
  subjects = chain.decoders(encoded, SIZE_PX)
  assert [s.name for s in subjects] == [
    "JPEG decoder",
    "JPEG decoder, scaled as the reader does",
    "decoded to 32 px",
  ]
  for subject in subjects:
    rate = subject.run()
    assert rate.images == 24
    assert rate.seconds > 0


def opened(photos, name="photos"):
  return open_prepared(
    name,
    data_dir=str(photos / "data"),
    split="train+test",
    image_size_px=SIZE_PX,
  )


def test_rows_of_the_chain(photos):
  source = opened(photos)
  assert len(source) == 24
  subjects = chain.pipelines(source, batch_size=8, view_px=24)
  assert [s.name for s in subjects] == [
    "read and decoded, one thread",
    "batches that are there to the devices",
    *(f"batches on the devices, workers: {n}" for n in (0, 1, 2)),
    "two views of what is on the devices",
    "batches and two views, workers: 0",
  ]
  for subject in subjects:
    if not subject.name.endswith(("1", "2")):
      rate = subject.run()
      # What takes next to no time is done more often.
      there = subject.name.startswith("batches that are there")
      assert rate.images == (8 * 24 if there else 24), subject.name
      assert rate.cpu_seconds > 0


def test_rows_of_a_set_that_is_stored_at_its_size(photos):
  small = opened(photos, "photos_small")
  encoded = chain.stored_files(small)
  sizes = [Image.open(io.BytesIO(data)).size for data in encoded]
  # Those that are no larger stay as they are.
  assert 0 < sum(size == (SIZE_PX, SIZE_PX) for size in sizes) < 24
  assert all(min(size) <= SIZE_PX for size in sizes)
  subjects = chain.stored_small(small, encoded, batch_size=8)
  assert [s.name for s in subjects] == [
    "stored at 32 px: JPEG decoder",
    *(
      f"stored at 32 px: batches on the devices, workers: {n}"
      for n in (0, 1, 2)
    ),
  ]
  assert [s.run().images for s in subjects[:2]] == [24, 24]


def test_processors_of_a_child_are_counted():
  busy = "import time\nwhile time.process_time() < 0.5: pass\ninput()"
  before = rates.cpu_seconds()
  with subprocess.Popen(
    [sys.executable, "-c", "print(1, flush=True)\n" + busy + "\n"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  ) as child:
    child.stdout.readline()
    for _ in range(600):
      if rates.cpu_seconds() - before >= 0.4:
        break
      importlib.util.find_spec("time")
    grown = rates.cpu_seconds() - before
    child.communicate(b"\n")
  assert grown >= 0.4


def test_ratios_are_of_the_same_round():
  Rate = rates.Rate
  told = {
    "first": iter([Rate(100, 1.0, 1.0), Rate(100, 4.0, 2.0)]),
    "second": iter([Rate(50, 1.0, 1.0), Rate(50, 4.0, 2.0)]),
  }
  subjects = [
    rates.Subject(name, lambda own=own: next(own)) for name, own in told.items()
  ]
  (first, _), (second, own) = rates.table(subjects, rounds=2)
  assert first["of the decoder's"] == 1
  assert second["row"] == "second"
  assert second["images/s"] == pytest.approx((50 + 12.5) / 2)
  assert second["lowest"] == second["highest"] == 0.5
  assert len(own) == 2


def test_without_torch_it_is_told(tmp_path):
  with pytest.raises(ValueError, match="can't be run"):
    comparison.torch_versions(str(tmp_path / "python"))
  if importlib.util.find_spec("torch") is None:
    with pytest.raises(ValueError, match="can't import torch and torchvision"):
      comparison.torch_versions(sys.executable)


def test_rows_of_torchvision(photos, tmp_path):
  """By an interpreter that says what it was asked for."""
  python = tmp_path / "python"
  python.write_text(
    f"#!{sys.executable}\n"
    "import json, sys\n"
    "assert sys.argv[1].endswith('bench/loader.py')\n"
    "images = int(sys.argv[-1])\n"
    "print(json.dumps({'images': images, 'seconds': 1, 'cpu_seconds': 2}))\n"
  )
  python.chmod(0o755)
  subjects = comparison.torchvision_loaders(
    str(python), photos / "photos", batch_size=2, size_px=SIZE_PX, view_px=24
  )
  assert [s.name for s in subjects] == [
    "torchvision, resized to 32 px, workers: 1",
    "torchvision, resized to 32 px, workers: 2",
    "torchvision, two views, workers: 1",
    "torchvision, two views, workers: 2",
  ]
  assert [s.run().images for s in subjects] == [24, 24, 16, 16]


def test_command(tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "jssl.bench.data", "--images=6", "--rounds=1"),
      *("--only=decoded,read", "--batch_size=2"),
      f"--json={tmp_path / 'bench.json'}",
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  names = ["JPEG decoder", "decoded to 256 px", "read and decoded, one thread"]
  for name in names:
    assert f"\n| {name} |" in done.stdout
  told = json.loads((tmp_path / "bench.json").read_text())
  assert [row["row"] for row in told["rows"]] == names
  assert told["images"] == 6
  assert told["mean kB"] > 10
  assert told["rows"][0]["rounds"][0]["images"] == 6
