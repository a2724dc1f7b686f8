"""Whole commands in environments that few machines of developers have."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest
import tensorflow_datasets as tfds
from data.damage import write_folder
from study.runs import write_run
from train.runs import ROOT, TINY, environment, rows

import jssl
from jssl import checkpoint
from jssl.data import folder

SHORT = {
  **TINY,
  "data.batch_size": 8,
  "train.steps": 2,
  "optim.warmup_steps": 0,
  "checkpoint.every_steps": 1,
  "probe.probes": ("linear",),
  "probe.baselines": (),
  "probe.label_fractions": (),
  "probe.seeds": 1,
  "probe.linear_l2_values": (1e-3,),
  "probe.linear_max_iterations": 20,
}
NOBODY = 12345


def start(module, *arguments, environ=None, shell=""):
  """Starts a command after a line of the shell; None unsets a variable."""
  own = {**environment(), "PYTHONPATH": "", **(environ or {})}
  command = [sys.executable, "-m", f"jssl.{module}", *arguments]
  return subprocess.Popen(
    ["bash", "-c", f'{shell}\nexec "$@"', "bash", *command],
    cwd=ROOT,
    env={name: value for name, value in own.items() if value is not None},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(*arguments, **options):
  """Returns status, stdout and stderr of a command."""
  process = start(*arguments, **options)
  out, err = process.communicate(timeout=120)
  assert "Traceback" not in err
  return process.returncode, out, err


def flags(workdir, **overrides):
  return [
    "--config=configs/quickstart.py",
    f"--workdir={workdir}",
    *(f"--config.{k}={v}" for k, v in {**SHORT, **overrides}.items()),
  ]


def train(workdir, *, overrides=None, **options):
  return run("train", *flags(workdir, **(overrides or {})), **options)


def succeed(result):
  status, out, err = result
  assert status == 0, err
  return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Workdir of a run of two steps."""
  workdir = tmp_path_factory.mktemp("trained") / "W"
  succeed(train(workdir))
  return workdir


@pytest.fixture
def copy(trained, tmp_path):
  return shutil.copytree(trained, tmp_path / "W")


@pytest.mark.skipif(
  os.geteuid() != 0 or not shutil.which("setpriv"),
  reason="only root can change the user",
)
def test_a_user_without_a_home():
  """As in `docker run --user 12345`."""
  anonymous = {
    "shell": f'set -- setpriv --reuid {NOBODY} --clear-groups "$@"',
    "environ": dict.fromkeys(
      ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    ),
  }
  with tempfile.TemporaryDirectory() as name:
    write_folder(pathlib.Path(name, "photos"))
    os.chmod(name, 0o755)
    workdir = pathlib.Path(name, "W")
    workdir.mkdir()
    os.chown(workdir, NOBODY, -1)
    source = f"--source={name}/photos"
    status, _, err = run("data.prepare", "folder", source, **anonymous)
    assert status == 1, err
    assert "error: --data_dir: expected a folder" in err
    data_dir = f"--data_dir={workdir}/data"
    succeed(run("data.prepare", "folder", source, data_dir, **anonymous))
    succeed(train(workdir, **anonymous))
    assert checkpoint.steps(workdir) == [1, 2]


def test_a_set_of_more_files_than_the_soft_limit(tmp_path):
  tfds.disable_progress_bar()
  for split in ("train", "test"):
    write_folder(tmp_path / "photos" / split, images_a_class=20)
  folder.prepare_folder(
    tmp_path / "photos",
    name="photos",
    data_dir=tmp_path / "data",
    download_config=tfds.download.DownloadConfig(num_shards=100),
  )
  data = {"data.name": "photos", "data.data_dir": str(tmp_path / "data")}
  overrides = {**data, "data.in_memory": False}
  succeed(train(tmp_path / "W", overrides=overrides, shell="ulimit -Sn 72"))
  assert checkpoint.steps(tmp_path / "W") == [1, 2]


@pytest.mark.slow
def test_a_run_of_float64_without_it(tmp_path, caplog):
  """Resuming is refused; another reader of its parameters is warned."""
  succeed(train(tmp_path / "W", environ={"JAX_ENABLE_X64": "1"}))
  before = (tmp_path / "W/metrics.jsonl").read_text()
  status, _, err = train(tmp_path / "W")
  assert status == 1
  assert "jax_enable_x64: was True, now False" in err
  assert (tmp_path / "W/metrics.jsonl").read_text() == before
  jssl.load_backbone(tmp_path / "W")
  assert "was saved with jax_enable_x64=True, now False" in caplog.text


@pytest.mark.slow
def test_the_key_implementation_changes_no_rows(tmp_path):
  """With rbg, what is drawn for an image would depend on its batch."""
  losses = []
  for chunks in (1, 2):
    workdir = tmp_path / str(chunks)
    overrides = {"train.chunks": chunks, "train.steps": 1}
    rbg = {"JAX_DEFAULT_PRNG_IMPL": "rbg"}
    succeed(train(workdir, overrides=overrides, environ=rbg))
    losses += [row["loss"] for row in rows(workdir)]
  assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.slow
def test_a_probe_with_output_that_takes_ascii_only(copy):
  out = succeed(
    run("probe", f"--workdir={copy}", environ={"PYTHONIOENCODING": "ascii"})
  )
  assert "+-" in out
  assert "±" not in out


@pytest.mark.slow
def test_damaged_files_beside_the_checkpoints(copy):
  garbage = b'{"status": "compl\xff\x00'
  names = ("status.json", "best.json", "metrics.jsonl", "goodput.jsonl")
  for name in names:
    (copy / name).write_bytes(garbage)
  succeed(train(copy, overrides={"checkpoint.keep_last": 2}))
  status = json.loads((copy / "status.json").read_text())
  assert status == {"status": "complete", "step": 2}
  assert rows(copy) == []
  assert rows(copy, "goodput.jsonl")
  (copy / "probe.jsonl").write_bytes(garbage)
  succeed(run("probe", f"--workdir={copy}"))
  assert {row["step"] for row in rows(copy, "probe.jsonl")} == {1, 2}
  assert json.loads((copy / "best.json").read_text())["step"] in (1, 2)


@pytest.mark.parametrize(
  "shell", ["", pytest.param("exec 2>&1", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("command", ["prepare", "probe", "study"])
def test_output_that_nobody_reads(copy, tmp_path, command, shell):
  """As with `| head -1` and `2>&1 | head -1`."""
  write_folder(tmp_path / "photos")
  arguments = {
    "prepare": [
      *("data.prepare", "folder", f"--source={tmp_path}/photos"),
      f"--data_dir={tmp_path}/data",
    ],
    "probe": ["probe", f"--workdir={copy}"],
    "study": ["study", "forecast", f"--workdir={tmp_path}/runs"],
  }[command]
  write_run(tmp_path / "runs", "simclr", [(0.8, 0.6), (0.7, 0.7)])
  with start(*arguments, shell=shell) as process:
    process.stdout.close()
    err = process.stderr.read()
  assert process.returncode == 0, err
  assert err.count("The reader of stdout is gone") == (not shell)
  written = {
    "prepare": "data/*/*/*.array_record*",
    "probe": "W/probe.jsonl",
    "study": "runs/forecast.md",
  }
  assert [*tmp_path.glob(written[command])]


@pytest.mark.slow
def test_a_corrected_command_on_the_workdir_of_a_failed_one(tmp_path):
  wrong = {"init_from.workdir": str(tmp_path / "none"), "model.width": 32}
  status, _, err = train(tmp_path / "W", overrides=wrong)
  assert status == 1
  assert "init_from.workdir" in err
  succeed(train(tmp_path / "W"))
  assert checkpoint.steps(tmp_path / "W") == [1, 2]
