"""Images that can't be read: told by name, or replaced and counted."""

import itertools

import numpy as np
import pytest
from data.damage import (
  break_record,
  opened,
  prepare_set,
  shard_of,
  write_folder,
)

from jssl import mesh as mesh_lib
from jssl.config.build import open_split
from jssl.config.schema import Data
from jssl.data import pipeline, prepare, prepared
from jssl.data.encode import Options
from jssl.data.open import open_source

ROWS = 35


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The data_dir of a set that isn't damaged, and all of it."""
  data_dir = prepare_set(tmp_path_factory.mktemp("whole"))
  source = opened(data_dir)
  assert len(source) == ROWS
  return data_dir, source.fetch(np.arange(ROWS))


@pytest.fixture
def broken(tmp_path):
  """Returns `(*rows) -> data_dir` of the same set with damaged records."""

  def make(*rows):
    data_dir = prepare_set(tmp_path)
    for row in rows:
      break_record(data_dir, row)
    return data_dir

  return make


@pytest.mark.parametrize("rows", [[6], [4, 5, 6, 7]])
def test_a_damaged_record_is_named_with_the_key(broken, rows):
  source = opened(broken(6))
  message = r"image 6 of photos, split train, .*data\.skip_damaged=True"
  with pytest.raises(ValueError, match=message):
    source.fetch(np.array(rows))
  assert source.fetch(np.array([5, 7]))["image"].shape == (2, 16, 16, 3)


@pytest.mark.parametrize(
  ("damaged", "replacement"),
  [([6], {6: 7}), ([6, 7], {6: 8, 7: 8}), ([34], {34: 0})],
)
def test_the_next_that_can_be_read_stands_in(
  broken, whole, damaged, replacement
):
  source = opened(broken(*damaged), skip_damaged=True)
  batch = source.fetch(np.arange(ROWS))
  taken = [replacement.get(row, row) for row in range(ROWS)]
  np.testing.assert_array_equal(batch["image"], whole[1]["image"][taken])
  np.testing.assert_array_equal(batch["label"], whole[1]["label"][taken])
  # Whatever else is fetched with it.
  alone = source.fetch(np.array(damaged))
  np.testing.assert_array_equal(alone["image"], batch["image"][damaged])


def test_replacements_are_counted_in_the_log(broken, monkeypatch):
  monkeypatch.setattr(prepared, "_replacements", itertools.count(1))
  lines = []
  monkeypatch.setattr(
    prepared.logging,
    "log_every_n_seconds",
    lambda level, line, seconds, *values: lines.append(line % values),
  )
  source = opened(broken(6, 8), skip_damaged=True)
  source.fetch(np.arange(10))
  assert lines == [
    f"Replaced {n} damaged images so far (data.skip_damaged); the last is "
    f"image {row} of photos, split train."
    for n, row in ((1, 6), (2, 8))
  ]


def test_a_record_whose_image_is_cut_off(whole, monkeypatch):
  source = opened(whole[0], skip_damaged=True)
  original = type(source.records).__getitems__

  def cut(self, rows):
    records = original(self, rows)
    for row, record in zip(rows, records, strict=True):
      if row == 2:
        record["image"] = record["image"][:300]
    return records

  monkeypatch.setattr(type(source.records), "__getitems__", cut)
  batch = source.fetch(np.array([1, 2]))
  np.testing.assert_array_equal(batch["image"][1], whole[1]["image"][3])


def test_nothing_is_replaced_in_a_whole_set(whole):
  batch = opened(whole[0], skip_damaged=True).fetch(np.arange(ROWS))
  assert batch.keys() == {"image", "label"}
  np.testing.assert_array_equal(batch["image"], whole[1]["image"])


def test_a_set_that_is_all_damaged_is_no_set(broken):
  data_dir = broken()
  shard = shard_of(data_dir)
  data = shard.read_bytes()
  shard.write_bytes(data[:3000] + data[3010:])
  source = opened(data_dir, skip_damaged=True)
  message = "image 3 of photos, split train, and the .* cannot be decoded, even"
  with pytest.raises(ValueError, match=message):
    source.fetch(np.array([3]))


@pytest.mark.parametrize(
  "error",
  [
    PermissionError(13, "Permission denied"),
    OSError(5, "Input/output error"),
    MemoryError(),
    RuntimeError("connection reset"),
  ],
)
def test_a_failing_machine_is_no_damaged_image(whole, monkeypatch, error):
  source = opened(whole[0], skip_damaged=True)

  def fail(self, rows):
    raise error

  monkeypatch.setattr(type(source.records), "__getitems__", fail)
  with pytest.raises(type(error)):
    source.fetch(np.array([3]))
  monkeypatch.undo()
  monkeypatch.setattr(prepared, "decode", lambda *_, **__: fail(0, 0))
  if not isinstance(error, RuntimeError):
    with pytest.raises(type(error)):
      source.fetch(np.array([3]))


def test_in_memory(broken, whole):
  data_dir = broken(6)
  options = {"data_dir": data_dir, "image_size_px": 16, "in_memory": True}
  with pytest.raises(ValueError, match="image 6 of photos"):
    open_source("photos", **options)
  source = open_source("photos", skip_damaged=True, **options)
  batch = source.fetch(np.array([5, 6]))
  np.testing.assert_array_equal(batch["image"], whole[1]["image"][[5, 7]])


def batches_of(source, number=6, **options):
  iterator = pipeline.train_batches(
    source,
    seed=3,
    batch_size=16,
    sharding=mesh_lib.batch_sharding(mesh_lib.make_mesh(4, 2)),
    **options,
  )
  made = [
    {key: np.asarray(x) for key, x in next(iterator).items()}
    for _ in range(number)
  ]
  iterator.close()
  return made


@pytest.mark.parametrize("workers", [0, 2])
def test_the_other_rows_of_batches_are_those_of_a_whole_set(
  broken, whole, workers
):
  source = opened(broken(6), skip_damaged=True)
  found = 0
  for batch, expected in zip(
    batches_of(source, workers=workers),
    batches_of(opened(whole[0])),
    strict=True,
  ):
    good = (batch["image"] == expected["image"]).all((1, 2, 3))
    np.testing.assert_array_equal(batch["label"][good], expected["label"][good])
    for image in batch["image"][~good]:
      np.testing.assert_array_equal(image, whole[1]["image"][7])
    found += (~good).sum()
  assert found == 3  # Once an epoch of two batches.


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_is_told_of_a_damaged_image(broken, workers):
  source = opened(broken(6))
  with pytest.raises(ValueError, match=r"image 6 of photos.*skip_damaged"):
    batches_of(source, workers=workers)


def test_hosts_see_the_same(broken):
  source = opened(broken(6, 7), skip_damaged=True)

  def damaged(rows):
    iterator = iter(
      pipeline.host_batches(source, seed=3, batch_size=16, rows=rows)
    )
    batches = [next(iterator) for _ in range(4)]
    iterator.close()
    return batches

  parts = [damaged(rows) for rows in np.split(np.arange(16), 4)]
  for step, batch in enumerate(damaged(np.arange(16))):
    for name, value in batch.items():
      together = np.concatenate([part[step][name] for part in parts])
      np.testing.assert_array_equal(together, value)


def cut_off(path):
  path.write_bytes(path.read_bytes()[:500])


def test_a_damaged_file_of_a_folder_is_named_with_the_flag(tmp_path):
  write_folder(tmp_path / "photos")
  cut_off(tmp_path / "photos" / "b" / "3.jpg")
  with pytest.raises(ValueError, match=r"--skip_damaged:\nb/3\.jpg: trunc"):
    prepare.prepare(
      "folder",
      source=str(tmp_path / "photos"),
      data_dir=str(tmp_path / "data"),
    )


@pytest.mark.parametrize(
  "damage", [cut_off, lambda path: path.write_bytes(b"")]
)
def test_damaged_files_of_a_folder_are_left_out(
  tmp_path, whole, damage, capsys
):
  write_folder(tmp_path / "photos")
  damage(tmp_path / "photos" / "b" / "3.jpg")
  data_dir = str(tmp_path / "data")
  prepare.prepare(
    "folder",
    source=str(tmp_path / "photos"),
    data_dir=data_dir,
    options=Options(skip_damaged=True),
  )
  assert "1 truncated or damaged image: b/3.jpg\n" in capsys.readouterr().out
  source = opened(data_dir)
  images = source.fetch(np.arange(len(source)))["image"]
  assert len(images) in (ROWS - 1, ROWS)  # As it was in train, or in test.
  before = {image.tobytes() for image in whole[1]["image"]}
  assert {image.tobytes() for image in images} <= before


def test_only_what_is_trained_on_is_replaced(broken):
  """A test image whose neighbour stood in would be tested twice."""
  data = Data(
    "photos",
    data_dir=broken(6),
    image_size_px=16,
    batch_size=4,
    in_memory=False,
    skip_damaged=True,
  )
  rows = np.array([6])
  open_split(data, "train").fetch(rows)
  with pytest.raises(ValueError, match="image 6 of photos, split train"):
    open_split(data, "train[:90%]").fetch(rows)
