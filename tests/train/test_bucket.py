"""A run in a bucket: trained, killed, resumed, followed and used."""

import re
import subprocess
import sys

import pytest
from shipped import config
from train.runs import ROOT, TINY, environment

from jssl.runtime import trackers
from jssl.runtime.files import read_json, read_json_lines
from jssl.runtime.paths import as_path
from jssl.runtime.status import status
from jssl.train.loop import train


def losses(workdir):
  rows = read_json_lines(as_path(workdir) / "metrics.jsonl")
  return {row["step"]: row["loss"] for row in rows}


def command(module, *arguments):
  return [sys.executable, "-m", f"jssl.{module}", *arguments]


def training(workdir):
  given = {**TINY, "probe.probes": "('knn',)", "probe.baselines": "()"}
  flags = [f"--config.{key}={value}" for key, value in given.items()]
  return command(
    "train", "--config=configs/quickstart.py", f"--workdir={workdir}", *flags
  )


@pytest.mark.slow
def test_killed_resumed_followed_and_used(bucket, tmp_path):
  workdir, environ = "gs://bucket/run", environment() | bucket
  follow = subprocess.Popen(
    command("probe", f"--workdir={workdir}", "--follow"),
    cwd=ROOT,
    env=environ,
    stdout=subprocess.PIPE,
    text=True,
  )
  killed = subprocess.Popen(
    training(workdir), cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True
  )
  for line in killed.stdout:
    if line.startswith("Saved checkpoint at step 8 "):
      break
  killed.kill()
  killed.communicate()
  # Rows up to the checkpoint are there; the lock is that of the killed one.
  assert set(range(1, 9)) <= losses(workdir).keys()
  assert read_json(as_path(workdir) / "lock")["pid"] == killed.pid

  def run(words, **kwargs):
    done = subprocess.run(
      words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr

  said = run(training(workdir))
  resumed = int(re.search(r"Resumed from checkpoint at step (\d+)", said)[1])
  assert resumed >= 8
  run(training(tmp_path / "local"))
  assert losses(workdir) == losses(tmp_path / "local")
  assert "pretrained, step 24" in follow.communicate()[0]
  assert follow.returncode == 0

  out = f"{workdir}-out"
  assert f"report: {workdir}/report.html" in run(command("report", workdir))
  run(
    command(
      *("export", f"--workdir={workdir}", "--layout=timm", f"--out={out}/timm")
    )
  )
  for given in (f"--workdir={workdir}", f"--weights={out}/timm"):
    run(
      command(
        *("embed", given, "--dataset=cluttered_digits", "--split=test"),
        f"--out={out}/features.parquet",
        "--overwrite",
      )
    )
  made = as_path(out).objects()
  assert {"timm/model.safetensors", "features.parquet"} <= made.keys()
  assert as_path(f"{workdir}/report.html").read_text().startswith("<!doctype")


@pytest.mark.slow
@pytest.mark.usefixtures("bucket")
def test_a_run_is_continued(monkeypatch):
  # Events of tensorboardX are uploaded once more after the emulator has ended.
  monkeypatch.setattr(trackers, "Trackers", lambda *_, **__: None)
  workdir = "gs://bucket/longer"
  short = config(**TINY | {"train.steps": 3})
  longer = config(**TINY | {"train.steps": 4})
  assert train(short, workdir)
  assert status(workdir) == "complete 3"
  first = losses(workdir)
  assert train(longer, workdir, extend=True)
  assert status(workdir) == "complete 4"
  assert losses(workdir).keys() == {1, 2, 3, 4}
  assert first.items() <= losses(workdir).items()
  assert {"config.json", "config_3_steps.json", "goodput.jsonl"} <= {
    path.name for path in as_path(workdir).iterdir()
  }
  assert not (as_path(workdir) / "lock").exists()
