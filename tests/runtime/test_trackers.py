"""Trackers, as their own files or clients show the metrics."""

import json
import os
import re
import struct
import subprocess
import sys

import pytest

from jssl.runtime import trackers

# The step at which a run of this file fails.
FAILING = 5
RUN = """
import sys, numpy as np
from jssl.runtime.trackers import Trackers
workdir, wandb, mlflow, step = sys.argv[1:]
config = {"seed": 3, "data": {"name": "digits"}}
tracked = Trackers(workdir, config, step=int(step), wandb=wandb, mlflow=mlflow)
tracked.image("undrawn", lambda: 1 / 0)
tracked.image("views", lambda: np.zeros((4, 6, 3), np.uint8))
tracked.scalars(int(step), {"loss": float(step) / 4})
tracked.close(failed=step == "5")
"""


def events(folder):
  """Reads the event files of a folder."""
  from tensorboardX.proto.event_pb2 import Event

  for path in sorted(folder.glob("events.out.tfevents.*")):
    content, start = path.read_bytes(), 0
    while start < len(content):
      # The length and its checksum, the record and its checksum.
      (length,) = struct.unpack_from("<Q", content, start)
      yield Event.FromString(content[start + 12 : start + 12 + length])
      start += 16 + length


def read_scalars(folder):
  """Reads (name, step, value) of the event files of a folder."""
  return [
    (value.tag, event.step, value.simple_value)
    for event in events(folder)
    for value in event.summary.value
    if value.HasField("simple_value")
  ]


def run(workdir, *, wandb="", mlflow="", step=4, **environ):
  done = subprocess.run(
    [sys.executable, "-c", RUN, str(workdir), wandb, mlflow, str(step)],
    env={**os.environ, "JAX_PLATFORMS": "cpu", **environ},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stderr


def test_tensorboard_reads_the_scalars(tmp_path):
  run(tmp_path)
  assert read_scalars(tmp_path) == [("loss", 4, 1.0)]
  assert not (tmp_path / "trackers.json").exists()
  # Rows of an earlier start that are repeated count once.
  (begins,) = [e for e in events(tmp_path) if e.HasField("session_log")]
  assert begins.step == 5


def test_wandb_offline(tmp_path):
  offline = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
  run(tmp_path, wandb="project", **offline)
  known = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
  run(tmp_path, wandb="project", step=8, **offline)
  assert json.loads((tmp_path / "trackers.json").read_text()) == {
    "wandb": known
  }
  files = [*tmp_path.glob("wandb/offline-run-*/run-*.wandb")]
  assert [path.name for path in files] == [f"run-{known}.wandb"] * 2
  content = b"".join(path.read_bytes() for path in files)
  for text in (b"loss", b"views", b"digits", b"project"):
    assert text in content


def runs_of_mlflow(uri):
  import mlflow

  client = mlflow.MlflowClient(uri)
  number = client.get_experiment_by_name("experiment").experiment_id
  return client, client.search_runs([number])


@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow")
def test_mlflow(tmp_path, monkeypatch):
  # mlflow-skinny has no other store without a server.
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  uri = (tmp_path / "mlruns").as_uri()
  environ = {"MLFLOW_TRACKING_URI": uri}
  for step, status in ((FAILING, "FAILED"), (8, "FINISHED")):
    run(tmp_path / "run", mlflow="experiment", step=step, **environ)
    client, (found,) = runs_of_mlflow(uri)
    assert found.info.status == status
  assert found.info.run_name == "run"
  assert found.data.params == {"seed": "3", "data.name": "digits"}
  history = client.get_metric_history(found.info.run_id, "loss")
  assert [(m.step, m.value) for m in history] == [(5, 1.25), (8, 2.0)]
  assert [a.path for a in client.list_artifacts(found.info.run_id)] == [
    "views.png"
  ]


def test_a_tracker_that_fails_is_logged_and_the_others_go_on(tmp_path):
  log = run(tmp_path, mlflow="experiment", MLFLOW_TRACKING_URI="nonsense://")
  assert re.search("Could not send metrics to a tracker: .*nonsense", log)
  assert read_scalars(tmp_path) == [("loss", 4, 1.0)]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named(name, monkeypatch):
  monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
  given = {"wandb": "", "mlflow": "", name: "mine"}
  with pytest.raises(ValueError, match=rf"log.{name}='mine' .*jssl\[{name}\]"):
    trackers.check_installed(**given)
  trackers.check_installed(wandb="", mlflow="")
