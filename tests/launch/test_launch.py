"""The scripts: what they would do, and what they do on this machine."""

import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from launch.stubs import LAUNCH, ROOT, lint, said, shellcheck, stub

SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck(path):
  assert not shellcheck("-x", str(path))


def test_shellcheck_finds_what_is_wrong():
  assert "SC2086" in shellcheck("--shell=bash", "-", text="rm $1")


@pytest.mark.parametrize(
  "path", [*SCRIPTS, LAUNCH / "gke.yaml"], ids=lambda p: p.name
)
def test_a_page_at_most(path):
  assert len(path.read_text().splitlines()) <= 85


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
  # Whatever became of the others: what would come back isn't started again.
  for others in ("0 134", "134 0"):
    ends = f'statuses=(1 {others}); exit "${{statuses[JAX_PROCESS_ID]}}"'
    said("local_multihost.sh", "3", "bash", "-c", ends, status=1)


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


def test_smoke_tests_are_there():
  for line in (ROOT / "tests/smoke.txt").read_text().splitlines():
    path, _, name = line.partition("::")
    assert f"def {name or 'test_'}" in (ROOT / path).read_text(), line


@pytest.mark.parametrize("newest", [None, "python3.12", "pyenv"])
def test_smoke_tests_run_on_the_newest_python(tmp_path, newest):
  shutil.copytree(LAUNCH, tmp_path / "launch")
  for name in ("bash", "dirname", "env", "mkdir", "cp"):
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(shutil.which(name))
  # A shim of pyenv for a version that is not selected.
  stub(tmp_path / "bin/python3.13", "exit 127")
  told = f'echo "$0" "$@" >> {tmp_path}/told\n'
  copied = f"mkdir -p $3/bin; cp {tmp_path}/own $3/bin/python"
  venv = f'[ "$2" != venv ] || {{ {copied}; }}'
  stub(tmp_path / "own", told)
  if newest:
    own = ".pyenv/versions/3.13.9/bin/python3.13"
    where = own if newest == "pyenv" else f"bin/{newest}"
    stub(tmp_path / where, told + venv)
  done = subprocess.run(
    ["bash", str(tmp_path / "launch/test.sh"), "smoke"],
    env={"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)},
    capture_output=True,
    text=True,
    check=True,
  )
  if newest is None:
    assert "smoke tests skipped" in done.stdout
    return
  *_, install, run = (tmp_path / "told").read_text().splitlines()
  assert install.endswith("-m pip install --quiet --editable .[test]")
  assert ".venv-smoke/bin/python -m pytest" in run
  assert run.endswith("@tests/smoke.txt")


@pytest.mark.skipif(sys.platform != "linux", reason="has no wheel elsewhere")
def test_hadolint():
  assert not lint("hadolint", "--no-color", str(LAUNCH / "Dockerfile"))


@pytest.mark.skipif(sys.platform != "linux", reason="has no wheel elsewhere")
def test_hadolint_finds_what_is_wrong():
  assert "DL3006" in lint("hadolint", "--no-color", "-", text="FROM debian\n")


def test_the_image_has_the_config_of_the_job():
  """Paths of gke.yaml are relative to the working directory of the image."""
  dockerfile = (LAUNCH / "Dockerfile").read_text()
  assert "COPY configs /app/configs" in dockerfile
  assert "\nWORKDIR /app\n" in dockerfile
  (config,) = re.findall(r"--config=(\S+)", (LAUNCH / "gke.yaml").read_text())
  assert (ROOT / config).is_file()
