import dataclasses
import json

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from data.damage import break_record, prepare_set
from embed.made import SIZE, make_run, write_images
from shipped import ROOT

import jssl
from jssl import mesh as mesh_lib
from jssl.data.decode import decode
from jssl.data.files import open_folder, open_list
from jssl.data.open import open_source
from jssl.data.source import InMemory
from jssl.embed import Pretrained, embed, store
from jssl.embed import run as run_module
from jssl.runtime.paths import as_path

NAMES = [f"{name}/{i:02}.png" for name in ("cat", "dog") for i in range(11)]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp("W"), steps=(1, 2))


@pytest.fixture(scope="module")
def backbone(workdir):
  return Pretrained.load(workdir)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
  return write_images(tmp_path_factory.mktemp("labelled"), NAMES)


@pytest.fixture
def small_parts(monkeypatch):
  """Parts of 8 images: one batch."""
  monkeypatch.setattr(run_module, "_PART_ROWS", 8)


def opened(folder):
  return open_folder(folder, image_size_px=SIZE, channels=3)


def about(path):
  return json.loads(pq.read_schema(path).metadata[b"jssl"])


def vectors(path, name="features"):
  return np.array(pq.read_table(path)[name].to_pylist(), np.float32)


def direct(workdir, folder, names, **arguments):
  """Features of images that `load_backbone` is given."""
  apply, variables = jssl.load_backbone(workdir)
  pixels = [
    decode((folder / name).read_bytes(), size_px=SIZE, channels=3)
    for name in names
  ]
  return apply(variables, apply.preprocess(np.stack(pixels)), **arguments)


def near(found, expected):
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_folder_with_labels(workdir, backbone, labelled, tmp_path, capsys):
  out = tmp_path / "F.parquet"
  assert embed(backbone, opened(labelled), out, batch_size=8) == 22
  table = pq.read_table(out)
  assert table.column_names == ["name", "index", "label", "class", "features"]
  assert table["name"].to_pylist() == NAMES
  assert table["index"].to_pylist() == [*range(22)]
  assert table["label"].to_pylist() == [0] * 11 + [1] * 11
  assert table["class"].to_pylist() == ["cat"] * 11 + ["dog"] * 11
  near(vectors(out), direct(workdir, labelled, NAMES))
  found = about(out)
  assert {k: found[k] for k in ("step", "backbone", "tokens", "damaged")} == {
    "step": 2,
    "backbone": "student",
    "tokens": None,
    "damaged": [],
  }
  assert (found["crop_size_px"], found["jssl"]) == (SIZE, jssl.__version__)
  assert found["classes"] == ["cat", "dog"]
  assert [p.name for p in tmp_path.iterdir()] == ["F.parquet"]
  output = capsys.readouterr().out
  assert (
    f"Wrote {out}: 22 rows of 16 features, 0 of 22 images omitted" in output
  )


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
def test_patch_tokens(workdir, backbone, labelled, tmp_path, suffix):
  out = tmp_path / f"F.{suffix}"
  embed(backbone, opened(labelled), out, tokens=True)
  expected = direct(workdir, labelled, NAMES, tokens=True)
  shape = expected.tokens.shape
  if suffix == "npz":
    with np.load(out) as arrays:
      near(arrays["features"], expected.pooled)
      near(arrays["tokens"], expected.tokens)
      assert arrays["name"].tolist() == NAMES
      assert arrays["class"].tolist() == ["cat"] * 11 + ["dog"] * 11
      assert json.loads(str(arrays["about"]))["tokens"] == [*shape[1:]]
  else:
    assert about(out)["tokens"] == [*shape[1:]]
    near(vectors(out), expected.pooled)
    near(vectors(out, "tokens").reshape(shape), expected.tokens)
  found = store.read(out)
  near(found.features, expected.pooled)
  assert found.names == tuple(NAMES)
  assert found.rows.tolist() == [*range(22)]


def test_images_beside_folders_are_unlabelled(backbone, tmp_path):
  folder = write_images(tmp_path / "flat", ["b.png", "a.png", "x/y/c.png"])
  out = tmp_path / "F.parquet"
  embed(backbone, opened(folder), out)
  table = pq.read_table(out)
  assert table.column_names == ["name", "index", "features"]
  assert table["name"].to_pylist() == ["a.png", "b.png", "x/y/c.png"]


def test_a_list_is_read_in_its_order(workdir, backbone, labelled, tmp_path):
  names = ["dog/03.png", "cat/00.png", "dog/03.png"]
  path = labelled / "chosen.txt"
  path.write_text(f"{names[0]}\n\n{labelled / names[1]}\n{names[2]}\n")
  source = open_list(path, image_size_px=SIZE, channels=3)
  out = tmp_path / "F.parquet"
  embed(backbone, source, out)
  found = store.read(out)
  assert found.names == (names[0], str(labelled / names[1]), names[2])
  assert found.classes == ()
  near(found.features, direct(workdir, labelled, names))


def test_a_prepared_set_has_the_names_of_its_files(
  workdir, backbone, tmp_path, capsys
):
  data_dir = prepare_set(tmp_path)
  break_record(data_dir, 6)
  source = open_source("photos", data_dir=data_dir, image_size_px=SIZE)
  out = tmp_path / "F.parquet"
  assert embed(backbone, source, out) == 34
  found = store.read(out)
  assert found.rows.tolist() == [i for i in range(35) if i != 6]
  # The files are exactly those of the prepared records.
  assert found.classes == tuple(name.split("/")[0] for name in found.names)
  near(found.features, direct(workdir, tmp_path / "photos", found.names))
  assert "Omitted image 6: image 6 of photos" in capsys.readouterr().out


def test_a_set_without_names_has_none(backbone, tmp_path):
  images = np.random.default_rng(0).integers(
    0, 256, (3, SIZE, SIZE, 1), np.uint8
  )
  source = InMemory("gray", ("a",), images, np.array([0, -1, 0], np.int32))
  out = tmp_path / "F.parquet"
  embed(backbone, source, out)
  found = store.read(out)
  assert found.names == (None, None, None)
  assert found.classes == ("a", None, "a")
  embed(backbone, source, tmp_path / "F.npz")
  assert store.read(tmp_path / "F.npz")[:3] == (
    found.names,
    pytest.approx(found.rows),
    found.classes,
  )
  colour = np.repeat(images, 3, axis=-1)
  near(found.features, backbone.encoder(backbone.variables, colour))


@pytest.mark.parametrize(
  ("suffix", "store_url"),
  [
    *(("parquet", ""), ("npz", "")),
    *(("parquet", "memory://bucket"), ("npz", "memory://bucket")),
  ],
)
@pytest.mark.usefixtures("small_parts")
def test_interrupted_and_resumed_is_the_same_file(
  backbone, labelled, tmp_path, suffix, store_url, monkeypatch, capsys
):
  folder = write_images(tmp_path / "images", NAMES)
  (folder / NAMES[2]).write_bytes(b"not an image")
  source = opened(folder)
  whole = tmp_path / f"whole.{suffix}"
  out = as_path(store_url or tmp_path) / f"F.{suffix}"
  embed(backbone, source, whole, batch_size=8)

  written = store.Parts.write

  def interrupted_at_second(self, table, damaged):
    if self._count == 1:
      raise KeyboardInterrupt
    written(self, table, damaged)

  with monkeypatch.context() as patch:
    patch.setattr(store.Parts, "write", interrupted_at_second)
    with pytest.raises(KeyboardInterrupt):
      embed(backbone, source, out, batch_size=8)
  parts = out.with_name(f"{out.name}.parts")
  assert sorted(p.name for p in parts.iterdir()) == [
    "000000.parquet",
    "manifest.json",
  ]
  # Half a part, as after a full disk.
  data = (parts / "000000.parquet").read_bytes()
  (parts / "000001.parquet").write_bytes(data[: len(data) // 2])
  encoded = []
  monkeypatch.setattr(
    run_module._Progress, "add", lambda self, images: encoded.append(images)
  )
  capsys.readouterr()
  assert embed(backbone, source, out, batch_size=8) == 21
  assert encoded == [8, 6]
  assert out.read_bytes() == whole.read_bytes()
  assert not parts.exists()
  output = capsys.readouterr().out
  assert "Resumed from image 8." in output
  assert f"Omitted image 2: {NAMES[2]}: no image of a known format" in output


@pytest.mark.usefixtures("small_parts")
def test_parts_of_another_run_are_refused(
  workdir, backbone, labelled, tmp_path, monkeypatch
):
  source, out = opened(labelled), tmp_path / "F.parquet"
  with monkeypatch.context() as patch:
    patch.setattr(store.Parts, "join", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      embed(backbone, source, out, batch_size=8)
  other = Pretrained.load(workdir, 1)
  fewer = dataclasses.replace(source, paths=source.paths[:9])
  for arguments, flag in (
    ((other, source, out), "weights .* change --workdir, --weights, --step"),
    ((backbone, fewer, out), "images '22 images.* change --source, --list"),
  ):
    with pytest.raises(ValueError, match=f"{flag}.*use --overwrite"):
      embed(*arguments, batch_size=8)
  with pytest.raises(ValueError, match=r"tokens None, .* change --tokens"):
    embed(backbone, source, out, batch_size=8, tokens=True)
  with pytest.raises(ValueError, match=r"batch_size 8, .*16: .* --batch_size"):
    embed(backbone, source, out, batch_size=16)
  embed(other, source, out, batch_size=8, overwrite=True)
  assert about(out)["step"] == 1


def test_eight_devices_equal_one(backbone, labelled, tmp_path, monkeypatch):
  assert jax.device_count() == 8
  eight, one = tmp_path / "eight.parquet", tmp_path / "one.parquet"
  embed(backbone, opened(labelled), eight, batch_size=8)
  made = mesh_lib.make_mesh
  monkeypatch.setattr(mesh_lib, "make_mesh", lambda *_: made(1, 1))
  embed(backbone, opened(labelled), one, batch_size=8)
  near(vectors(eight), vectors(one))
  assert about(eight) == about(one)


def test_images_that_cannot_be_read_are_listed(
  backbone, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(run_module, "MOST_LISTED", 2)
  folder = write_images(tmp_path / "images", ["0.png", "1.png", "2.png"])
  whole = (folder / "0.png").read_bytes()
  (folder / "1.png").write_bytes(whole[: len(whole) // 2])
  np.save(folder / "3.npy", np.zeros((40, 40, 5), np.uint8))
  (folder / "list.txt").write_text("0.png\n1.png\n3.npy\n4.png\n2.png\n")
  source = open_list(folder / "list.txt", image_size_px=SIZE, channels=3)
  out = tmp_path / "F.parquet"
  assert embed(backbone, source, out) == 2
  assert store.read(out).rows.tolist() == [0, 4]
  output = capsys.readouterr().out
  for line in (
    "Omitted image 1: 1.png: image file is truncated",
    "Omitted image 2: 3.npy: 5 channels; expected 3",
    f"Omitted 1 more images; the metadata of {out} lists all.",
    "3 of 5 images omitted",
  ):
    assert line in output
  damaged = about(out)["damaged"]
  assert [row for row, _ in damaged] == [1, 2, 3]
  assert damaged[2][1] == "4.png: No such file or directory"


def test_nothing_to_read_and_nothing_finite(backbone, labelled, tmp_path):
  (tmp_path / "list.txt").write_text("none.png\nnor.png\n")
  source = open_list(tmp_path / "list.txt", image_size_px=SIZE, channels=3)
  with pytest.raises(ValueError, match=r"none of the 2 images.*none\.png: No"):
    embed(backbone, source, tmp_path / "F.parquet")
  # The next run reads them again, although names and sizes are the same.
  assert [p.name for p in tmp_path.iterdir()] == ["list.txt"]
  broken = jax.tree.map(lambda x: np.full_like(x, np.nan), backbone.variables)
  nan = dataclasses.replace(backbone, variables=broken)
  with pytest.raises(ValueError, match=r"22 of the features of images 0 to 21"):
    embed(nan, opened(labelled), tmp_path / "G.parquet")
  assert not (tmp_path / "G.parquet").exists()


def test_an_output_that_cannot_be_written(backbone, labelled, tmp_path):
  source, taken = opened(labelled), tmp_path / "F.parquet"
  taken.touch()
  for out, error, match in (
    (taken, FileExistsError, "exists; change --out, or .* --overwrite"),
    (tmp_path / "F.csv", ValueError, r"ends in \.parquet or \.npz"),
    (tmp_path / "no" / "F.npz", FileNotFoundError, "no is not a folder; make"),
  ):
    with pytest.raises(error, match=match):
      embed(backbone, source, out)
  embed(backbone, source, taken, overwrite=True)
  assert len(store.read(taken).rows) == 22


def test_other_channels_are_refused(backbone, tmp_path):
  images = np.zeros((3, SIZE, SIZE, 4), np.uint8)
  source = InMemory("rgba", (), images, np.full(3, -1, np.int32))
  with pytest.raises(
    ValueError, match=r"4 channels: expected 1 or 3, .*--data"
  ):
    embed(backbone, source, tmp_path / "F.parquet")


def test_folders_without_images_or_with_splits(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r"--source=.*none is not a folde"
  ):
    opened(tmp_path / "none")
  (tmp_path / "a.txt").touch()
  with pytest.raises(ValueError, match=r"no images; .*1 with the suffix \.txt"):
    opened(tmp_path)
  write_images(tmp_path, ["train/a.png", "val/b.png"])
  with pytest.raises(ValueError, match=r"splits: train, val; .*/train$"):
    opened(tmp_path)
  (tmp_path / "empty.txt").touch()
  with pytest.raises(ValueError, match=r"--list=.*empty\.txt is empty"):
    open_list(tmp_path / "empty.txt", image_size_px=SIZE, channels=3)


@pytest.mark.slow
def test_published_weights_take_the_usual_crop(labelled, tmp_path):
  path = ROOT / "tests" / "fixtures" / "weights" / "hf_dinov2"
  backbone = Pretrained.load(path)
  crop = backbone.encoder.image_shape[0]
  assert backbone.image_size_px == round(crop / 0.875)
  source = open_folder(
    labelled, image_size_px=backbone.image_size_px, channels=3
  )
  out = tmp_path / "F.parquet"
  embed(backbone, source, out)
  batch = source.fetch(np.arange(22))["image"]
  apply, variables = jssl.load_backbone(path)
  near(vectors(out), apply(variables, apply.preprocess(batch)))
  assert (about(out)["backbone"], about(out)["step"]) == ("published", None)
