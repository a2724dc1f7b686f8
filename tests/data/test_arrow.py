"""Sets of Hugging Face, Parquet files and WebDataset's tar files."""

import json
import pathlib
import pickle
import tarfile
import time
from concurrent import futures

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.stores import STORES, add, encode, noise, table, write_tars

from jssl.data import copies
from jssl.data.decode import decode
from jssl.data.open import open_source
from jssl.data.source import Named, Segmented
from jssl.runtime.paths import as_path

IMAGES, TEST_IMAGES, CLASSES = 40, 7, ["cat", "dog", "elk"]
ALL = {
  "train": (noise(IMAGES), [i % 3 for i in range(IMAGES)]),
  "test": (noise(TEST_IMAGES, seed=1), [0] * TEST_IMAGES),
}
NEW = [name for name in STORES if name != "ArrayRecord"]


@pytest.fixture(scope="module", params=STORES)
def store(request, tmp_path_factory):
  """The name of a kind of set, and a folder with the set `animals`."""
  data_dir = tmp_path_factory.mktemp("data")
  STORES[request.param](data_dir / "animals", ALL, CLASSES)
  return request.param, data_dir


def opened(data_dir, name="animals", **options):
  return open_source(
    name, data_dir=str(data_dir), **({"image_size_px": 6} | options)
  )


def decoded(images, rows, size_px=6, channels=3):
  return np.stack(
    [decode(images[row], size_px=size_px, channels=channels) for row in rows]
  )


def test_images_labels_and_names_of_every_row(store):
  kind, data_dir = store
  source = opened(data_dir)
  assert isinstance(source, Named)
  assert len(source) == IMAGES
  assert source.image_shape == (6, 6, 3)
  # A tar file has no class names.
  expected = ("0", "1", "2") if kind == "tar" else tuple(CLASSES)
  assert source.class_names == expected
  rows = np.array([39, 0, 7, 20, 20, 3])
  batch, names = source.fetch(rows), source.fetch_names(rows)
  of_rows = [int(name.removesuffix(".png")) for name in names]
  if kind != "ArrayRecord":
    assert of_rows == rows.tolist()
  np.testing.assert_array_equal(
    batch["image"], decoded(ALL["train"][0], of_rows)
  )
  assert batch["label"].tolist() == [row % 3 for row in of_rows]
  every = source.fetch_names(np.arange(IMAGES))
  assert sorted(every) == [f"{i:03}.png" for i in range(IMAGES)]


@pytest.mark.parametrize(
  ("split", "taken"),
  [
    ("test", [("test", range(TEST_IMAGES))]),
    ("train[:10%]", [("train", range(4))]),
    ("train[3:-2]", [("train", range(3, 38))]),
    (
      "train[90%:]+test[:1]",
      [("train", range(36, 40)), ("test", range(1))],
    ),
  ],
)
def test_parts_of_splits(store, split, taken):
  _, data_dir = store
  source = opened(data_dir, split=split)
  wholes = {s: opened(data_dir, split=s) for s in ALL}
  expected = [wholes[of].fetch(np.array(rows))["image"] for of, rows in taken]
  found = source.fetch(np.arange(len(source)))["image"]
  np.testing.assert_array_equal(found, np.concatenate(expected))


def test_a_missing_split_names_those_there_are(store):
  with pytest.raises(ValueError, match=r"splits \['test', 'train'\], not 'x'"):
    opened(store[1], split="x")


def test_a_source_is_sent_to_workers_without_its_images(store):
  source = opened(store[1])
  rows = np.arange(IMAGES)
  before = source.fetch(rows)
  sent = pickle.dumps(source)
  assert len(sent) < 10_000 < sum(map(len, ALL["train"][0]))
  after = pickle.loads(sent)
  np.testing.assert_array_equal(after.fetch(rows)["image"], before["image"])
  assert after.fingerprint() == source.fingerprint()


def test_in_memory(store):
  source = opened(store[1])
  loaded = opened(store[1], in_memory=True)
  rows = np.arange(IMAGES)
  np.testing.assert_array_equal(
    loaded.fetch(rows)["image"], source.fetch(rows)["image"]
  )
  assert loaded.fingerprint() == source.fingerprint()


@pytest.mark.parametrize("kind", STORES)
def test_fingerprint_is_that_of_the_images(kind, tmp_path):
  def fingerprint(name, seed=0, split="train", names=CLASSES):
    splits = {**ALL, "train": (noise(IMAGES, seed=seed), ALL["train"][1])}
    STORES[kind](tmp_path / name / "animals", splits, names)
    return opened(tmp_path / name, split=split).fingerprint()

  first = fingerprint("first")
  assert first.startswith(f"{IMAGES} images, ")
  assert fingerprint("again") == first
  others = {
    fingerprint("seed", seed=2),
    fingerprint("test", split="test"),
    fingerprint("part", split="train[:50%]"),
  }
  if kind != "tar":
    others.add(fingerprint("names", names=["cat", "dog", "fox"]))
  assert first not in others
  assert len(others) == (3 if kind == "tar" else 4)


# TFDS would decode the images: see test_damaged.py.
@pytest.mark.parametrize("kind", NEW)
def test_a_damaged_image_is_named_or_replaced(kind, tmp_path):
  images, labels = ALL["train"]
  images = [
    data[: len(data) // 2] if i in (5, 6) else data
    for i, data in enumerate(images)
  ]
  STORES[kind](tmp_path / "animals", {"train": (images, labels)}, CLASSES)
  source = opened(tmp_path)
  assert source.fetch(np.array([4, 7]))["label"].tolist() == [1, 1]
  with pytest.raises(
    ValueError, match=r"image 5 of animals, split train.*skip_damaged=True"
  ):
    source.fetch(np.arange(IMAGES))
  skipping = opened(tmp_path, skip_damaged=True).fetch(np.arange(IMAGES))
  taken = [7 if i in (5, 6) else i for i in range(IMAGES)]
  np.testing.assert_array_equal(skipping["image"], decoded(images, taken))
  assert skipping["label"].tolist() == [labels[i] for i in taken]


# Files that are made once.


def made_in(folder):
  return sorted(p.name for p in pathlib.Path(folder).rglob("*.arrow"))


@pytest.mark.parametrize("kind", ["Parquet", "tar"])
def test_files_are_read_once_until_they_change(kind, tmp_path, monkeypatch):
  STORES[kind](tmp_path / "animals", ALL, CLASSES)
  first = opened(tmp_path, split="train").fetch(np.arange(3))
  made = made_in(tmp_path)
  assert len(made) == (6 if kind == "tar" else 3)

  def fail(*args):
    raise NotImplementedError

  with monkeypatch.context() as patch:
    patch.setattr(copies, "_index_tar", fail)
    patch.setattr(copies, "_copy_parquet", fail)
    again = opened(tmp_path).fetch(np.arange(3))
    np.testing.assert_array_equal(again["image"], first["image"])
  changed = {**ALL, "train": (noise(IMAGES, seed=3), ALL["train"][1])}
  STORES[kind](tmp_path / "new" / "animals", changed, CLASSES)
  for path in (tmp_path / "new").rglob("*train*"):
    if path.suffix in (".tar", ".parquet"):
      path.replace(tmp_path / path.relative_to(tmp_path / "new"))
  found = opened(tmp_path).fetch(np.arange(3))["image"]
  np.testing.assert_array_equal(found, decoded(changed["train"][0], range(3)))


@pytest.mark.parametrize("kind", ["Parquet", "tar"])
def test_a_file_is_read_once_by_processes_that_start_together(
  kind, tmp_path, monkeypatch
):
  STORES[kind](tmp_path / "animals", ALL, CLASSES)
  (path, *_) = (
    p
    for p in (tmp_path / "animals").rglob("*")
    if p.suffix in (".parquet", ".tar")
  )
  name = "_index_tar" if kind == "tar" else "_copy_parquet"
  write, written = getattr(copies, name), []

  def slow(path, out):
    written.append(path)
    time.sleep(0.3)
    write(path, out)

  monkeypatch.setattr(copies, name, slow)
  # Locks of files exclude threads that open them on their own too.
  with futures.ThreadPoolExecutor(4) as pool:
    made = set(pool.map(copies.arrow_file, [path] * 4))
  assert len(made) == len(written) == 1


def test_a_set_in_a_bucket_is_copied(store, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  kind, data_dir = store
  url = f"memory://bucket/{kind}"
  as_path(url).upload(data_dir)
  rows = np.arange(IMAGES)
  here, there = (opened(folder).fetch(rows) for folder in (data_dir, url))
  for key, values in here.items():
    np.testing.assert_array_equal(there[key], values)
  with pytest.raises(FileNotFoundError, match="copy its folder there"):
    opened(url, name="absent")


@pytest.mark.parametrize("kind", ["Parquet", "tar"])
def test_a_folder_that_cannot_be_written(kind, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  STORES[kind](tmp_path / "sets" / "animals", ALL, CLASSES)
  for folder in {p.parent for p in (tmp_path / "sets").rglob("*.*")}:
    # root may write everywhere.
    (folder / ".jssl").write_text("not a folder")
  source = opened(tmp_path / "sets")
  assert len(source.fetch(np.arange(IMAGES))["label"]) == IMAGES
  assert not made_in(tmp_path / "sets")
  assert made_in(tmp_path / "cache" / "jssl" / "sets")


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("damage", ["empty", "cut"])
def test_a_damaged_file_is_one_line(kind, damage, tmp_path):
  STORES[kind](tmp_path / "animals", ALL, CLASSES)
  suffix = {"Arrow": ".arrow", "Parquet": ".parquet", "tar": ".tar"}[kind]
  path = max((tmp_path / "animals").rglob(f"*{suffix}"))
  data = path.read_bytes()
  path.write_bytes(b"" if damage == "empty" else data[: len(data) // 2])
  with pytest.raises(ValueError, match=f"{path.name} is damaged .*; expected"):
    opened(tmp_path).fetch(np.arange(IMAGES))
  assert not list(tmp_path.rglob(".jssl/tmp*"))


# What sets may hold.


def write_rows(path, rows, schema=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(pa.Table.from_pylist(rows, schema), path)


def test_columns_of_bytes_and_labels_as_text(tmp_path):
  for split, labels in (("train", "bab"), ("valid", "ccx")):
    rows = [
      {"id": i, "jpg": data, "label": None if label == "x" else label}
      for i, (data, label) in enumerate(zip(noise(3), labels, strict=True))
    ]
    write_rows(tmp_path / "mine" / f"{split}.parquet", rows)
  train = opened(tmp_path, "mine")
  assert train.class_names == ("a", "b", "c")
  assert train.fetch(np.arange(3))["label"].tolist() == [1, 0, 1]
  assert train.fetch_names(np.arange(2)) == [None, None]
  valid = opened(tmp_path, "mine", split="valid")
  assert valid.class_names == train.class_names
  assert valid.fetch(np.arange(3))["label"].tolist() == [2, 2, -1]


def test_a_single_file_and_numbers_as_labels(tmp_path):
  labels = (4, 0, -1)
  rows = [
    {"image": data, "label": label}
    for data, label in zip(noise(3), labels, strict=True)
  ]
  write_rows(tmp_path / "mine.parquet", rows)
  source = opened(tmp_path, "mine.parquet")
  assert source.class_names == ("0", "4")
  assert source.fetch(np.arange(3))["label"].tolist() == [1, 0, -1]
  again = opened("/elsewhere", str(tmp_path / "mine.parquet"))
  assert again.fingerprint() == source.fingerprint()


@pytest.mark.parametrize("kind", NEW)
def test_unlabelled(kind, tmp_path):
  folder = tmp_path / "mine"
  if kind == "tar":
    folder.mkdir()
    with tarfile.open(folder / "000.tar", "w") as tar:
      for i, data in enumerate(noise(3)):
        add(tar, f"./a/{i}.PNG", data)
        add(tar, f"./a/{i}.txt", b"a caption")
      add(tar, "./a/9.txt", b"a caption without an image")
  elif kind == "Parquet":
    write_rows(folder / "a.parquet", [{"image": data} for data in noise(3)])
  else:
    folder.mkdir()
    rows = table(noise(3), [0] * 3, CLASSES).select(["image"])
    with pa.ipc.new_file(folder / "data-0.arrow", rows.schema) as writer:
      writer.write_table(rows)
  source = opened(tmp_path, "mine")
  assert source.class_names == ()
  batch = source.fetch(np.arange(3))
  assert batch["label"].tolist() == [-1] * 3
  np.testing.assert_array_equal(batch["image"], decoded(noise(3), range(3)))


def test_members_of_tar_files(tmp_path, caplog):
  """Names differ by case, and only the first suffix is that of the image."""
  folder = tmp_path / "mine"
  folder.mkdir()
  names = ["Ab.jpg", "aB.JPG", "c.depth.png", "c.png", "c.png", "d.seg.png"]
  with tarfile.open(folder / "000.tar", "w") as tar:
    for name, data in zip(names, noise(6), strict=True):
      add(tar, name, data)
  source = opened(tmp_path, "mine")
  rows = np.arange(3)
  assert source.fetch_names(rows) == ["Ab.jpg", "aB.JPG", "c.png"]
  found = source.fetch(rows)["image"]
  np.testing.assert_array_equal(found, decoded(noise(6), [0, 1, 3]))
  assert "left out 1 samples without an image, and 1 images that" in caplog.text


def test_labels_and_splits_of_tar_files(tmp_path):
  folder = tmp_path / "mine"
  for split, labels in (("train", ["7", "10"]), ("val", ["2", None])):
    (folder / split).mkdir(parents=True)
    with tarfile.open(folder / split / "0.tar", "w") as tar:
      for i, (data, label) in enumerate(zip(noise(2), labels, strict=True)):
        add(tar, f"{i}.json", json.dumps({"label": label}).encode())
        add(tar, f"{i}.png", data)
  train = opened(tmp_path, "mine")
  assert train.class_names == ("2", "7", "10")
  assert train.fetch(np.arange(2))["label"].tolist() == [1, 2]
  val = opened(tmp_path, "mine", split="val")
  assert val.fetch(np.arange(2))["label"].tolist() == [0, -1]


def test_names_of_members_are_only_names(tmp_path):
  (tmp_path / "mine").mkdir()
  with tarfile.open(tmp_path / "mine" / "0.tar", "w") as tar:
    for name in ("../../up.png", "/etc/passwd.png", "a\nb.png"):
      add(tar, name, noise(1)[0])
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tar.addfile(link)
  source = opened(tmp_path, "mine")
  assert len(source) == 3
  images = source.fetch(np.arange(3))["image"]
  np.testing.assert_array_equal(images, decoded(noise(1), [0] * 3))
  assert sorted(p.name for p in tmp_path.rglob("*.png")) == []


@pytest.mark.parametrize(
  ("shapes", "channels"), [([(8, 8)], 1), ([(8, 8), (8, 8, 3)], 3)]
)
def test_channels(tmp_path, shapes, channels):
  rows = [{"image": noise(1, shape)[0]} for shape in shapes * 3]
  write_rows(tmp_path / "mine" / "a.parquet", rows)
  assert opened(tmp_path, "mine").image_shape == (6, 6, channels)


def test_masks(tmp_path):
  mask = np.tile(np.array([[0, 1], [2, 255]], np.uint8).repeat(4, 0), (1, 4))
  rows = [{"image": d, "annotation": encode(mask)} for d in noise(2, (8, 8, 3))]
  write_rows(tmp_path / "mine" / "a.parquet", rows)
  source = opened(tmp_path, "mine", image_size_px=8)
  assert isinstance(source, Segmented)
  expected = np.where(mask == 255, -1, mask.astype(int))
  np.testing.assert_array_equal(source.fetch_masks(np.array([1])), [expected])


@pytest.mark.parametrize(
  ("rows", "match"),
  [
    ([{"text": "a"}], r"no column of encoded images, only \['text'\]"),
    ([{"image": b"not one"}], "'image' are no image files; expected bytes"),
    (
      [{"image": {"bytes": None, "path": "/a.png"}}],
      "embed_external_files=True",
    ),
    (
      [{"image": encode(np.zeros((8, 8), np.uint16))}],
      "mode I;16; expected gray or RGB",
    ),
  ],
)
def test_sets_without_images_of_8_bits(tmp_path, rows, match):
  schema = None
  if isinstance(rows[0].get("image"), dict):
    image_type = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image_type})
  write_rows(tmp_path / "mine" / "a.parquet", rows, schema)
  with pytest.raises(ValueError, match=match):
    opened(tmp_path, "mine")


def test_kinds_are_not_mixed(tmp_path):
  STORES["Parquet"](tmp_path / "mine", ALL, CLASSES)
  write_tars(tmp_path / "mine" / "more", ALL, CLASSES)
  with pytest.raises(ValueError, match=r"kinds \['\.parquet', '\.tar'\]; exp"):
    opened(tmp_path, "mine")


def test_as_many_files_as_a_process_may_open(tmp_path, monkeypatch):
  STORES["tar"](tmp_path / "mine", ALL, CLASSES)
  monkeypatch.setattr("jssl.data.prepared.raise_open_files_limit", lambda: 70)
  with pytest.raises(ValueError, match=r"'mine' has 12 files.*ulimit -n"):
    opened(tmp_path, "mine")
