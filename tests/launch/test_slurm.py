"""The batch script: where it installs, and when it is queued again."""

import os
import re
import subprocess

import pytest
from launch.stubs import LAUNCH, STATUS, first_in_path, said, stub

SCRIPT = LAUNCH / "slurm_gpu.sbatch"
VERSIONS = "launch/constraints.txt"


def test_a_job_trains_and_is_queued_again():
  lines = said(
    SCRIPT.name, "--dry-run", "2", "c.py", "w", "--config.seed=1"
  ).splitlines()
  assert lines == [
    f"environment .venv-cuda cuda12 {VERSIONS}",
    f"sbatch --nodes=2 {SCRIPT} 2 c.py w --config.seed=1",
    "srun --kill-on-bad-exit=0 --wait=120 --cpus-per-task=8 bash -c "
    'trap : TERM; "$@" || exit $(($? == 1 ? 255 : $?)) task '
    ".venv-cuda/bin/python -m jssl.train "
    "--distributed --config=c.py --workdir=w --config.seed=1",
    "scontrol requeue JOB",
  ]


def test_a_workdir_in_a_bucket_needs_its_package():
  workdir = "gs://bucket/w"
  lines = said(SCRIPT.name, "--dry-run", "2", "c.py", workdir).splitlines()
  assert lines[0] == f"environment .venv-cuda cuda12,gcs {VERSIONS}"
  assert f"--workdir={workdir}" in lines[2]


def test_processes_and_cores_are_those_that_are_asked_for():
  asked = dict(
    re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", SCRIPT.read_text(), re.MULTILINE)
  )
  # JAX takes one GPU for each process there.
  assert asked["ntasks-per-node"] == asked["gpus-per-node"]
  assert f"SLURM_CPUS_PER_TASK:-{asked['cpus-per-task']}" in SCRIPT.read_text()


# Its status is the highest of its tasks; one of them is told to stop, with all
# that it has started.
SRUN = """
[ -z "$SAID" ] || echo "{\\"status\\": \\"$SAID\\"}" > W/status.json
while [[ $1 == --* ]]; do shift; done
highest=0
for own in $STATUS; do
  rm -f W/started
  STATUS=$own setsid "$@" & pid=$!
  [ "$own" != told ] || {
    until [ -e W/started ]; do sleep 0.05; done
    kill -TERM -- "-$pid"
  }
  status=0; wait "$pid" || status=$?
  [ "$status" -le "$highest" ] || highest=$status
done
exit "$highest"
"""
PYTHON = f"""
{STATUS}
case "$*" in *jssl.train*)
  [ "$STATUS" = told ] || exit "$STATUS"
  trap 'sleep 0.5; exit 0' TERM
  touch W/started
  for _ in {{1..100}}; do sleep 0.1; done
  exit 3 ;;
esac
"""


@pytest.fixture
def commands(tmp_path):
  """Commands of a cluster that write down what they were told."""
  told = f'echo "$(basename "$0")" "$@" >> {tmp_path}/told\n'
  for name, does in (("sbatch", ""), ("srun", SRUN), ("scontrol", "")):
    stub(tmp_path / "bin" / name, told + does)
  stub(tmp_path / "venv/bin/python", PYTHON + told)
  (tmp_path / "W").mkdir()
  return tmp_path


def run(commands, **environ):
  """Returns the exit status, and what the commands were told."""
  own = {
    key: value
    for key, value in os.environ.items()
    if not key.startswith("SLURM_")
  }
  done = subprocess.run(
    ["bash", str(SCRIPT), "2", "c.py", f"{commands}/W"],
    env={
      **own,
      **first_in_path(commands / "bin"),
      "VENV": str(commands / "venv"),
      **environ,
    },
    capture_output=True,
    text=True,
    check=False,
  )
  told = commands / "told"
  return done, told.read_text().splitlines() if told.exists() else []


def test_an_image_is_not_installed():
  text = said(
    *("slurm_gpu.sbatch", "--dry-run", "2", "configs/simclr_imagenet.py", "W"),
    IMAGE="jssl.sif",
  )
  assert " task apptainer exec --nv jssl.sif python -P -m jssl.train " in text
  assert "environment" not in text


def test_it_is_installed_once_where_it_is_queued(commands):
  done, told = run(commands)
  assert done.returncode == 0, done.stderr
  assert [line.split()[0] for line in told] == ["python", "sbatch"]
  assert f"pip install --quiet --constraint {VERSIONS}" in told[0]
  assert told[1].endswith(f"2 c.py {commands}/W")


@pytest.mark.parametrize(
  ("status", "left", "restarts", "again", "ends"),
  [
    # Complete; its time was over; a process died; the same would come back.
    ("0 0", "complete", 0, False, 0),
    ("told told", "restartable", 30, True, 0),
    ("0 134", "", 2, True, 0),
    ("75 134", "", 20, False, 134),
    ("1 1", "", 0, False, 1),
    # One met an error, and JAX ended the others.
    ("134 1 75", "", 0, False, 1),
  ],
)
def test_a_job_is_queued_again(commands, status, left, restarts, again, ends):
  done, told = run(
    commands,
    SLURM_JOB_ID="7",
    SLURM_SUBMIT_DIR=str(commands),
    SLURM_CPUS_PER_TASK="4",
    SLURM_RESTART_COUNT=str(restarts),
    STATUS=status,
    SAID=left,
  )
  assert done.returncode == ends, done.stderr
  assert told[0].startswith("srun")
  assert "--cpus-per-task=4" in told[0]
  # Nothing is installed on a node.
  assert told[1:] == (["scontrol requeue 7"] if again else [])


def test_a_job_without_an_environment_is_told(commands):
  (commands / "venv/bin/python").unlink()
  done, told = run(commands, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(commands))
  assert done.returncode == 1
  assert "start with bash, not sbatch" in done.stderr
  assert told == []
