"""The scripts: what they would do, and what they do on this machine."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import jssl

ROOT = pathlib.Path(jssl.__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


def said(script, *arguments, status=0, **environ):
  done = subprocess.run(
    ["bash", str(LAUNCH / script), *arguments],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
    env={**os.environ, **environ},
  )
  assert done.returncode == status, done.stderr
  return done.stdout.replace("'", "") if status == 0 else done.stderr


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck(path):
  done = subprocess.run(
    ["shellcheck", "-x", str(path)], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
  "path", [*SCRIPTS, LAUNCH / "gke.yaml"], ids=lambda p: p.name
)
def test_a_page_at_most(path):
  assert len(path.read_text().splitlines()) <= 85


def test_a_pod_is_queued_trained_on_and_given_back():
  lines = said(
    "tpu_pod.sh",
    *("--dry-run", "pod", "us-west4-a", "v5litepod-256", "c.py", "shared/w"),
    "--config.seed=1",
    BUCKET="data",
  ).splitlines()
  tpus = "gcloud compute tpus"
  at = "pod --zone=us-west4-a"
  assert lines[0] == (
    f"{tpus} queued-resources create {at} --node-id=pod "
    "--accelerator-type=v5litepod-256 --runtime-version=v2-alpha-tpuv5-lite "
    "--spot"
  )
  workers = f"{tpus} tpu-vm ssh {at} --worker=all --command="
  assert lines[1].startswith(workers + "pip")
  assert "gcsfuse --implicit-dirs" in lines[1]
  assert "tpu-vm scp --recurse configs pod:" in lines[2]
  (training,) = (line for line in lines if "jssl.train" in line)
  assert training.startswith(workers)
  assert "--distributed" in training
  assert training.replace("\\", "").endswith(
    "--config=c.py --workdir=shared/w --config.seed=1"
  )
  assert "status.json" in lines[4]
  assert lines[5] == f"{tpus} queued-resources delete {at} --force --quiet"


def test_a_pod_that_is_kept_and_one_that_is_not_known():
  arguments = ("--dry-run", "pod", "z", "v4-8", "c.py", "w")
  assert "--spot" not in said("tpu_pod.sh", *arguments, SPOT="0")
  unknown = ("--dry-run", "pod", "z", "v9-8", "c.py", "w")
  message = said("tpu_pod.sh", *unknown, status=1)
  assert "v9-8: say its software version in RUNTIME" in message


def test_a_slurm_job_trains_and_is_queued_again():
  lines = said(
    "slurm_gpu.sbatch", "--dry-run", "c.py", "w", "--config.seed=1"
  ).splitlines()
  assert lines == [
    "environment .venv-cuda cuda12",
    "srun --kill-on-bad-exit=1 .venv-cuda/bin/python -m jssl.train "
    "--distributed --config=c.py --workdir=w --config.seed=1",
    "scontrol requeue JOB",
  ]
  text = (LAUNCH / "slurm_gpu.sbatch").read_text()
  tasks = re.search(r"#SBATCH --ntasks-per-node=(\d+)", text)
  gpus = re.search(r"#SBATCH --gpus-per-node=(\d+)", text)
  # JAX takes one GPU for each process there.
  assert tasks.group(1) == gpus.group(1)


@pytest.mark.parametrize(
  "script", ["tpu_pod.sh", "slurm_gpu.sbatch", "local_multihost.sh"]
)
def test_usage(script):
  assert "usage:" in said(script, status=2)


TELL = """
import os, signal, sys, time
names = "PROCESS_ID", "NUM_PROCESSES", "COORDINATOR_ADDRESS"
line = " ".join(os.environ["JAX_" + name] for name in names) + "\\n"
os.write(1, line.encode())
signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(sys.argv[2])))
time.sleep(float(sys.argv[1]))
sys.exit(os.environ["JAX_PROCESS_ID"] == sys.argv[2])
"""


def test_processes_of_this_machine():
  lines = said("local_multihost.sh", "3", sys.executable, "-c", TELL, "0", "9")
  found = sorted(line.split() for line in lines.splitlines())
  assert [line[:2] for line in found] == [["0", "3"], ["1", "3"], ["2", "3"]]
  assert len({line[2] for line in found}) == 1
  # One that fails makes all of it fail.
  command = (sys.executable, "-c", TELL, "0", "1")
  said("local_multihost.sh", "3", *command, status=1)


@pytest.mark.parametrize("status", [0, 5])
def test_a_signal_is_passed_on(status):
  command = ["bash", str(LAUNCH / "local_multihost.sh"), "2"]
  command += [sys.executable, "-c", TELL, "60", str(status)]
  started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  assert started.stdout is not None
  for _ in range(2):
    started.stdout.readline()
  time.sleep(0.5)
  began = time.monotonic()
  started.send_signal(signal.SIGTERM)
  started.communicate(timeout=30)
  assert started.returncode == status
  assert time.monotonic() - began < 20
