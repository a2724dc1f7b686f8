"""The JobSet: what its pods do when they are told to stop, and what follows."""

import importlib.util
import os
import re
import signal
import subprocess
import time

import pytest
import yaml
from launch.stubs import LAUNCH, ROOT, STATUS, first_in_path, shellcheck, stub

from jssl.config.parse import complete
from jssl.config.schema import Config
from jssl.runtime.workdir import check_workdir

SET = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
(SLICE,) = SET["spec"]["replicatedJobs"]
JOB = SLICE["template"]["spec"]
POD = JOB["template"]["spec"]
(TRAIN,) = POD["containers"]

# Told to stop it takes a while to save, and ends well, as jssl.train does.
PYTHON = f"""
{STATUS}
end() {{ echo '{{"status": "'$1'"}}' > "$WORKDIR/status.json"; exit 0; }}
echo "$@" > "$WORKDIR/started"
trap 'sleep 0.5; touch "$WORKDIR/told"; end restartable' TERM
if [ -n "$STATUS" ]; then
  [ "$STATUS" = 0 ] && end complete
  exit "$STATUS"
fi
for _ in {{1..300}}; do sleep 0.1; done
exit 3
"""


@pytest.fixture
def start(tmp_path):
  """Starts what a pod runs, at the head of a group of its own."""
  stub(tmp_path / "bin" / "python", PYTHON)
  (tmp_path / "W").mkdir()
  *command, script = TRAIN["command"]
  assert command == ["bash", "-c"]

  def started(status=""):
    variables = {entry["name"]: entry["value"] for entry in TRAIN["env"]}
    own = {"WORKDIR": str(tmp_path / "W"), "STATUS": status}
    return subprocess.Popen(
      [*command, script],
      env={**os.environ, **variables, **own, **first_in_path(tmp_path / "bin")},
      start_new_session=True,
    )

  return started


def test_a_pod_that_is_told_to_stop_saves_first(start, tmp_path):
  pod = start()
  while not (tmp_path / "W" / "started").exists():
    time.sleep(0.05)
  time.sleep(0.2)
  # As the kubelet does it: the first process alone is told.
  pod.send_signal(signal.SIGTERM)
  status = pod.wait(timeout=20)
  assert (tmp_path / "W" / "told").exists()
  # It isn't complete: a status that makes the set start again.
  assert status == 75
  arguments = (tmp_path / "W" / "started").read_text()
  assert arguments.startswith("-m jssl.train --distributed --workdir=")


def test_shellcheck():
  assert not shellcheck("--shell=bash", "-", text=TRAIN["command"][-1])


def test_what_is_trained_is_there():
  """The config, and the keys of it that the command sets."""
  command = TRAIN["command"][-1]
  (path,) = re.findall(r"--config=(\S+)", command)
  (key,) = re.findall(r"--config\.(\S+)=", command)
  found = importlib.util.spec_from_file_location("found", ROOT / path)
  module = importlib.util.module_from_spec(found)
  found.loader.exec_module(module)
  section, name = key.split(".")
  assert name in complete(module.get_config(), Config)[section]


@pytest.mark.parametrize("status", ["0", "1", "75", "134"])
def test_the_status_of_a_pod_is_that_of_the_training(start, status):
  assert start(status).wait(timeout=20) == int(status)


def test_the_end_of_a_run_that_another_pod_tells_later(start, tmp_path):
  stub(tmp_path / "bin" / "python", f"{STATUS}\nexit 0")
  pod = start()
  time.sleep(1)
  assert pod.poll() is None
  (tmp_path / "W" / "status.json").write_text('{"status": "complete"}')
  assert pod.wait(timeout=20) == 0


def test_what_would_come_back_ends_the_set():
  """Status 1 fails the Job by its policy; of that the set isn't restarted."""
  assert SET["spec"]["failurePolicy"]["maxRestarts"] > 0
  (rule,) = SET["spec"]["failurePolicy"]["rules"]
  assert rule == {
    "action": "FailJobSet",
    "onJobFailureReasons": ["PodFailurePolicy"],
  }
  disrupted, failed = JOB["podFailurePolicy"]["rules"]
  assert disrupted["action"] == "Count"
  assert failed == {
    "action": "FailJob",
    "onExitCodes": {
      "containerName": TRAIN["name"],
      "operator": "In",
      "values": [1],
    },
  }
  # What Kubernetes wants of a policy.
  assert POD["restartPolicy"] == "Never"
  assert JOB["backoffLimit"] == 0


def test_a_set_of_pods_needs_no_mount():
  """Workdir, compiled programs and data are in a bucket."""
  assert "volumes" not in POD
  values = {entry["name"]: entry["value"] for entry in TRAIN["env"]}
  flags = values.pop("LIBTPU_INIT_ARGS").split()
  assert [*values] == ["WORKDIR", "JAX_COMPILATION_CACHE_DIR"]
  for value in values.values():
    check_workdir(value)
  # The scripts of pods set the same flags.
  assert flags
  worker = (LAUNCH / "tpu_worker.sh").read_text().split()
  assert [flag for flag in worker if flag.startswith("--xla")] == flags
  assert "--config.data.data_dir=gs://BUCKET/data" in TRAIN["command"][-1]
  assert JOB["parallelism"] == JOB["completions"]
