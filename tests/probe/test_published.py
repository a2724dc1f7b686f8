"""Published weights in the table of a probe."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from oracles.probe import SETTINGS
from probe import made
from probe.test_runner import CONFIG, tiny

import jssl
from jssl.config.parse import parse, to_dict
from jssl.config.schema import Config, Probe
from jssl.probe import dataset, published
from jssl.probe.accuracy import accuracy_table
from jssl.probe.published import PublishedWeights, run_published
from jssl.probe.record_file import RecordFile
from jssl.runtime.workdir import claim_workdir

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures/weights"
DINOV2 = str(FIXTURES / "timm_dinov2")
QUICK = {**SETTINGS, "probes": ("linear",), "label_fractions": ()}


@pytest.fixture(autouse=True)
def images(monkeypatch, one_device):
  def source(data, split):
    return tiny(data.name, split, channels=4 if data.name == "rgba" else 1)

  monkeypatch.setattr(dataset, "open_split", source)
  monkeypatch.setattr(dataset.mesh_lib, "make_mesh", lambda *_: one_device)
  monkeypatch.setattr(
    published, "Probe", lambda **fields: Probe(**QUICK, **fields)
  )


def run(workdir, weights=DINOV2, **options):
  lines = []
  name, size = options.pop("name", ""), options.pop("image_size_px", 0)
  run_published(
    workdir,
    PublishedWeights(weights, name=name, image_size_px=size),
    log=lines.append,
    **options,
  )
  return lines


def names(workdir):
  return [
    row[0] for row in accuracy_table(RecordFile(workdir).read(), "tiny").rows
  ]


def test_without_a_run(tmp_path):
  workdir = tmp_path / "W"
  with pytest.raises(ValueError, match=r"--weights needs --dataset.*no run"):
    run(workdir)
  with pytest.raises(ValueError, match=r"4 channels: expected 1 or 3"):
    run(workdir, dataset="rgba")
  assert not (workdir / "probe.jsonl").exists()
  run(workdir, dataset="tiny")
  assert names(workdir) == ["raw pixels", "timm_dinov2"]
  # Gray images are repeated: those of `load_backbone`.
  apply, variables = jssl.load_backbone(DINOV2)
  views = apply.preprocess(tiny("tiny", "test").images)
  expected = jax.jit(apply)(variables, views)
  (cached,) = workdir.glob("features/tiny-test-timm_dinov2-*.npy")
  np.testing.assert_allclose(np.load(cached), expected, rtol=1e-4, atol=1e-5)

  before = (workdir / "probe.jsonl").read_bytes()
  lines = run(workdir, dataset="tiny")
  assert any("has records: replace them with --overwrite" in x for x in lines)
  assert (workdir / "probe.jsonl").read_bytes() == before
  run(workdir, dataset="tiny", name="at 8 px", image_size_px=8)
  assert names(workdir) == ["raw pixels", "timm_dinov2", "at 8 px"]

  done = subprocess.run(
    [sys.executable, "-m", "jssl.report", f"--workdir={workdir}"],
    capture_output=True,
    text=True,
    check=True,
  )
  page = (workdir / "report.html").read_text()
  for name in names(workdir):
    assert name in done.stdout
    assert f'<th scope="row">{name}</th>' in page


def test_beside_a_run(tmp_path):
  """The row is added; nothing of the run changes, baselines neither."""
  config = parse({**CONFIG, "probe": {**CONFIG["probe"], **QUICK}}, Config)
  claim_workdir(to_dict(config), tmp_path)
  own = [
    made.probe_record(features, step, dataset="tiny")
    for features, step in (("pixels", 0), ("random", 0), ("backbone", 10))
  ]
  made.write_records(tmp_path, own)
  before = json.loads((tmp_path / "config.json").read_text())
  run(tmp_path)
  assert names(tmp_path) == [
    *("raw pixels", "random backbone", "timm_dinov2", "pretrained, step 10")
  ]
  assert RecordFile(tmp_path).read()[:3] == own
  assert json.loads((tmp_path / "config.json").read_text()) == before
  # In the report of one step too.
  table = accuracy_table(RecordFile(tmp_path).read(), "tiny", step=10)
  assert "timm_dinov2" in [row[0] for row in table.rows]


def test_settings_of_the_probe_are_flags(tmp_path):
  flags = ["--config.probe.corrupted_images=9", "--config.probe.seeds=1"]
  with pytest.raises(ValueError, match="corrupted_images=9: expected 0, becau"):
    run(tmp_path / "W", dataset="rgba", overrides=flags)
  match = "'--config.seed=1'; set a value .* --config.probe.KEY=VALUE"
  with pytest.raises(ValueError, match=match):
    run(tmp_path / "W", dataset="tiny", overrides=["--config.seed=1"])


@pytest.mark.parametrize(
  ("path", "name", "expected"),
  [
    (DINOV2, "", "timm_dinov2"),
    (f"{DINOV2}/model.safetensors", "", "timm_dinov2"),
    (DINOV2, "ours", "ours"),
    (DINOV2, "student", "--name=student: expected none of pixels, random"),
  ],
)
def test_names(path, name, expected):
  if name == "student":
    with pytest.raises(ValueError, match=expected):
      PublishedWeights(path, name=name)
  else:
    assert PublishedWeights(path, name=name).name == expected


@pytest.mark.slow
def test_all_sets_are_opened_before_the_first_is_probed(tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "jssl.probe", f"--workdir={tmp_path / 'W'}"),
      *(f"--weights={DINOV2}", "--dataset=cluttered_digits,none"),
      f"--data_dir={tmp_path}",
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert "error: data.name='none' is not in" in done.stderr, done.stderr
  assert not (tmp_path / "W").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([f"--weights={DINOV2}", "--follow"], "--follow needs no --weights"),
    (["--name=dinov2"], "--name needs --weights"),
    (["--dataset=a,b", "--follow"], "--follow needs one data set, but --dat"),
    (["--dataset=a,b", "--test_split=c"], "--test_split needs one data set"),
    (["--dataset=a,b", "--export=f.npz"], "--export needs one data set"),
    (["--config.seed=1"], "with --config.probe.KEY=VALUE"),
    (["--weights=none.safetensors"], "none.safetensors does not exist"),
  ],
)
def test_flags_that_exclude_each_other(tmp_path, flags, message):
  done = subprocess.run(
    [sys.executable, "-m", "jssl.probe", f"--workdir={tmp_path / 'W'}", *flags],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert message in done.stderr
  assert not (tmp_path / "W").exists()
