"""Files of others are data: reading them runs nothing (docs/security.md)."""

import contextlib
import gc
import io
import json
import os
import pathlib
import pickle
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shipped
from launch.stubs import stub
from PIL import Image, UnidentifiedImageError

import jssl
from jssl import checkpoint
from jssl.checkpoint import CheckpointError, Checkpoints, manifest
from jssl.config.build import build, open_split
from jssl.config.parse import parse, to_dict
from jssl.config.schema import Config
from jssl.data.decode import decode
from jssl.data.files import open_list
from jssl.data.source import InMemory, SkipDamaged
from jssl.embed import store
from jssl.probe import features

ROOT = pathlib.Path(jssl.__file__).parents[1]
CANARY = "canary_of_the_tests"
IMAGES, LABELS = np.zeros((512, 32, 32, 1), np.uint8), np.zeros(512, np.int32)


class Touch:
  """An object whose pickle makes a file when it is read."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


@pytest.fixture
def ran(tmp_path, monkeypatch):
  """A file that exists once code of a file of data has run."""
  path = tmp_path / "ran"
  (tmp_path / "modules").mkdir()
  (tmp_path / "modules" / f"{CANARY}.py").write_text(
    f"import pathlib; pathlib.Path({str(path)!r}).touch()\n"
  )
  monkeypatch.syspath_prepend(tmp_path / "modules")
  yield path
  sys.modules.pop(CANARY, None)


@pytest.fixture
def folder(tmp_path):
  """The folder of a checkpoint."""
  with Checkpoints(tmp_path / "W", keep_last=1, keep_every_steps=None) as saved:
    saved.save(3, {"backbone": {"w": jnp.arange(64.0)}})
  return tmp_path / "W/checkpoints/3"


def replace_strings(value, word):
  """Replaces every string of a JSON value, except keys."""
  if isinstance(value, dict):
    return {key: replace_strings(v, word) for key, v in value.items()}
  if isinstance(value, list):
    return [replace_strings(v, word) for v in value]
  return word if isinstance(value, str) else value


def read_again(folder):
  """Restores a changed checkpoint whose manifest agrees with its files."""
  path = folder / manifest.NAME
  found = json.loads(path.read_text())
  path.write_text(json.dumps({**found, "files": manifest._digests(folder)}))
  with contextlib.suppress(CheckpointError):
    return checkpoint.restore_backbone(folder.parents[1], 3)
  return None


def test_the_canary_runs_when_it_is_imported(ran):
  __import__(CANARY)
  assert ran.exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_words_of_a_checkpoint_import_nothing(folder, ran):
  replaced = 0
  for path in sorted(folder.rglob("*")):
    if path.is_dir() or path.name == manifest.NAME:
      continue
    with contextlib.suppress(ValueError):
      before = path.read_text()
      for word in (CANARY, f"{CANARY}.Handler", f"{CANARY}:Handler"):
        after = json.dumps(replace_strings(json.loads(before), word))
        replaced += word in after
        path.write_text(after)
        read_again(folder)
      path.write_text(before)
  assert replaced
  assert not ran.exists()
  np.testing.assert_array_equal(read_again(folder)["w"], jnp.arange(64.0))


# Threads of Orbax end with errors of their own.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_pickle_in_a_checkpoint_is_not_read(folder, ran):
  paths = [p for p in folder.rglob("*") if p.is_file()]
  for path in paths:
    if path.name != manifest.NAME:
      before = path.read_bytes()
      path.write_bytes(pickle.dumps(Touch(ran)))
      read_again(folder)
      path.write_bytes(before)
  assert not ran.exists()
  # Unfinished reads end here, where their warnings are expected.
  gc.collect()


def test_a_manifest_names_only_files_of_its_checkpoint(folder, tmp_path):
  (tmp_path / "other").write_text("x")
  found = json.loads((folder / manifest.NAME).read_text())
  found["files"]["../../../other"] = manifest._digests(tmp_path)["other"]
  (folder / manifest.NAME).write_text(json.dumps(found))
  with pytest.raises(CheckpointError, match="damaged or missing"):
    manifest.check_files(folder)


def test_words_of_a_config_import_nothing(ran, tmp_path):
  config = to_dict(shipped.config())
  for section in ("data", "model", "objective", "optim"):
    for key, value in config[section].items():
      if isinstance(value, str):
        changed = {**config[section], key: f"{CANARY}.Class"}
        with contextlib.suppress(ValueError, TypeError, FileNotFoundError):
          found = parse({**config, section: changed}, Config)
          open_split(found.data, found.data.split)
          build(found, source=InMemory("x", (), IMAGES, LABELS), devices=None)
  changed = {**config, "model": {**config["model"], "name": CANARY}}
  (tmp_path / "config.json").write_text(json.dumps(changed))
  with pytest.raises(ValueError, match=r"model.name"):
    jssl.load_backbone(tmp_path)
  assert not ran.exists()


def test_a_pickle_in_cached_features_is_not_read(ran, tmp_path):
  path = tmp_path / "features.npy"
  h, labels = np.zeros((1, 2), np.float32), np.zeros(1, np.int32)
  features.write(path, 1, [(h, labels)])
  assert features.cached(path, 2) is not None
  objects = np.array([Touch(ran)], dtype=object)
  for of_rows, own in ((objects, labels), (h, objects)):
    np.save(path, of_rows, allow_pickle=True)
    sha256 = features._sha256(path)
    np.savez(features._labels_path(path), labels=own, sha256=sha256)
    assert features.cached(path, 2) is None
  assert not ran.exists()


def test_a_pickle_in_embeddings_is_not_read(ran, tmp_path):
  pickled = pickle.dumps(Touch(ran))
  columns = {"name": ["a"], "index": [0], "features": np.zeros((1, 2))}
  npz, parquet = tmp_path / "F.npz", tmp_path / "F.parquet"
  np.savez(npz, **{**columns, "name": np.array([Touch(ran)], object)}, about="")
  with pytest.raises(ValueError, match=r"F\.npz is not a file of"):
    store.read(npz)
  # A type of Arrow that some versions load by unpickling.
  extension = {
    b"ARROW:extension:name": b"arrow.py_extension_type",
    b"ARROW:extension:metadata": pickled,
  }
  schema = store.make_schema(2, None, labelled=False)
  schema = schema.set(0, schema.field("name").with_metadata(extension))
  rows = {**columns, "features": [[0.0, 0.0]]}
  pq.write_table(
    pa.table(rows, schema=schema.with_metadata({b"jssl": b"{}"})), parquet
  )
  assert store.read(parquet).names == ("a",)
  for path in (npz, parquet):
    path.write_bytes(pickled)
    with pytest.raises(ValueError, match="is not a file of `jssl embed`"):
      store.read(path)
  assert not ran.exists()


def test_a_line_of_a_list_is_only_a_path(ran, tmp_path):
  (tmp_path / "pickle.png").write_bytes(pickle.dumps(Touch(ran)))
  lines = [f"$(touch {ran})", f"|touch {ran}", f"file://{tmp_path}/pickle.png"]
  listed = tmp_path / "list.txt"
  listed.write_text("\n".join(["pickle.png", *lines]))
  source = SkipDamaged(open_list(listed, image_size_px=8, channels=3))
  assert not source.fetch(np.arange(4))["readable"].any()
  assert "no image of a known format" in source.reason(0)
  assert all("No such file" in source.reason(row) for row in (1, 2, 3))
  assert not ran.exists()


def test_no_program_is_run_for_an_image(ran, tmp_path, monkeypatch):
  """Pillow runs Ghostscript for PostScript, unless formats are given."""
  stub(tmp_path / "bin/gs", f"touch {ran}; exit 1")
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
  encoded = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    b"%%EndProlog\nshowpage\n%%EOF\n"
  )
  with pytest.raises(UnidentifiedImageError):
    decode(encoded, size_px=8, channels=3)
  assert not ran.exists()
  # What would happen otherwise.
  with contextlib.suppress(OSError, subprocess.CalledProcessError):
    Image.open(io.BytesIO(encoded)).load()
  assert ran.exists()


def test_every_test_of_the_page_is_there():
  text = (ROOT / "docs/security.md").read_text()
  named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
  assert named
  for path, name in named:
    assert f"def {name}(" in (ROOT / path).read_text(), (path, name)
