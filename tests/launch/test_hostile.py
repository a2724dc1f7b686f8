"""Words of a user reach jssl.train as they are; no shell runs them."""

import os
import shlex
import subprocess
import sys

import pytest
import yaml
from launch.stubs import LAUNCH, ROOT, STATUS, first_in_path, said, stub

# Each would make a file `ran`, or lose a word, if a shell read it again.
HOSTILE = [
  "$(touch ran)",
  "`touch ran`",
  "; touch ran;",
  "&& touch ran #",
  "| touch ran",
  "' touch ran '",
  '" touch ran "',
  "\\$(touch ran)",
  "two  words",
  "*",
  "{a,b}",
  "$HOME",
  "line\ntouch ran",
  "ünïcode",
]
# Writes its arguments down, a NUL after each.
WRITE = f'{STATUS}\nprintf "%s\\0" "$@" >> "$FAKE/told"'


def told(folder):
  """Returns the lists of arguments that jssl.train got."""
  words = (folder / "told").read_bytes().decode().split("\0")[:-1]
  starts = [i for i, word in enumerate(words) if word == "-m"]
  calls = [
    words[i:j] for i, j in zip(starts, [*starts[1:], len(words)], strict=True)
  ]
  return [call for call in calls if call[1] == "jssl.train"]


def expected(word):
  return [
    *("-m", "jssl.train", "--distributed", f"--config={word}"),
    *(f"--workdir=W/{word}", f"--config.a={word}"),
  ]


@pytest.mark.parametrize("word", HOSTILE)
def test_a_worker_of_a_pod(tmp_path, word):
  """Twice quoted: for the ssh of gcloud, and for the training."""
  arguments = ("--dry-run", "pod", "z", "v4-8", word, f"W/{word}")
  done = subprocess.run(
    ["bash", str(LAUNCH / "tpu_pod.sh"), *arguments, f"--config.a={word}"],
    capture_output=True,
    text=True,
    check=True,
  )
  # Bash undoes its own quotes, and gives each command to a stub.
  stub(tmp_path / "bin/gcloud", 'printf "%s\\0" "${@: -1}" >> "$FAKE/commands"')
  stub(tmp_path / "jssl/launch/tpu_worker.sh", "exit 9")
  stub(tmp_path / "bin/tar", "exit 0")
  own = {**os.environ, **first_in_path(tmp_path / "bin"), "FAKE": str(tmp_path)}
  subprocess.run(["bash", "-c", done.stdout], cwd=tmp_path, env=own, check=True)
  commands = (tmp_path / "commands").read_bytes().decode().split("\0")
  install, start, state = [
    c[10:] for c in commands if c.startswith("--command")
  ]
  # What sshd runs on a worker.
  write = 'printf "%s\\0" "$@" >> "$FAKE/words"'
  stub(tmp_path / "jssl/launch/tpu_worker.sh", write)
  for command in (install, start, state):
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=own, check=True)
  words = (tmp_path / "words").read_bytes().decode().split("\0")[:-1]
  assert words == [
    *("install", "start", word, f"W/{word}", f"--config.a={word}"),
    *("state", f"W/{word}"),
  ]
  assert not [*tmp_path.rglob("ran")]


@pytest.mark.parametrize("word", HOSTILE)
def test_the_training_of_a_worker(tmp_path, word):
  for name in ("tpu_worker.sh", "environment.sh"):
    (tmp_path / "launch").mkdir(exist_ok=True)
    (tmp_path / "launch" / name).write_text((LAUNCH / name).read_text())
  stub(tmp_path / ".venv-tpu/bin/python", WRITE)

  def worker(*arguments):
    return subprocess.run(
      ["bash", str(tmp_path / "launch/tpu_worker.sh"), *arguments],
      env={**os.environ, "FAKE": str(tmp_path)},
      capture_output=True,
      text=True,
      check=True,
      timeout=60,
    ).stdout

  checkpoint = tmp_path / "W" / word / "checkpoints/12"
  checkpoint.mkdir(parents=True)
  (checkpoint / "manifest.json").touch()
  worker("start", word, f"W/{word}", f"--config.a={word}")
  while (state := worker("state", f"W/{word}")) == "jssl: running at 12\n":
    pass
  assert state == "jssl: ended 0 at 12\n"
  assert told(tmp_path) == [expected(word)]
  assert not [*tmp_path.rglob("ran")]


@pytest.mark.parametrize("word", HOSTILE)
def test_tasks_of_slurm(tmp_path, word):
  srun = 'while [[ $1 == --* ]]; do shift; done; "$@"'
  stub(tmp_path / "bin/srun", srun)
  stub(tmp_path / "bin/scontrol", "exit 0")
  stub(tmp_path / "bin/sbatch", 'shift; exec bash "$@"')
  stub(tmp_path / "venv/bin/python", WRITE)
  script = ["bash", str(LAUNCH / "slurm_gpu.sbatch")]
  own = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
  own |= first_in_path(tmp_path / "bin")
  own |= {"FAKE": str(tmp_path), "VENV": str(tmp_path / "venv")}
  words = ["2", word, f"W/{word}", f"--config.a={word}"]
  job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(tmp_path)}
  subprocess.run([*script, *words], env={**own, **job}, check=True)
  assert told(tmp_path) == [expected(word)]
  assert not [*tmp_path.rglob("ran")]


@pytest.mark.parametrize("word", HOSTILE)
def test_processes_of_a_machine(tmp_path, word):
  echo = "import os, sys; os.write(1, sys.argv[1].encode() + b'\\0')"
  done = subprocess.run(
    [
      *("bash", str(LAUNCH / "local_multihost.sh"), "2"),
      *(sys.executable, "-c", echo, word),
    ],
    cwd=tmp_path,
    capture_output=True,
    check=True,
  )
  assert done.stdout.decode() == 2 * f"{word}\0"
  assert not [*tmp_path.rglob("ran")]


@pytest.mark.parametrize(
  ("workdir", "message"),
  [
    ("s3://bucket/run", "expected a folder, or gs://BUCKET/FOLDER"),
    ("GS://bucket/run", "expected a folder, or gs://BUCKET/FOLDER"),
    ("gs://bucket/", "expected a folder, or gs://BUCKET/FOLDER"),
    ("", "expected a folder"),
    ("~/run", "expected a folder"),
    ("-run", "expected a folder"),
  ],
)
@pytest.mark.parametrize(
  "command",
  ["tpu_pod.sh --dry-run pod z v4-8 c.py", "slurm_gpu.sbatch --dry-run 2 c.py"],
)
def test_a_workdir_that_a_run_refuses_is_refused_first(
  command, workdir, message
):
  script, *arguments = shlex.split(command)
  own = {"SLURM_JOB_ID": ""}
  found = said(script, *arguments, workdir, status=1, **own)
  assert f"error: WORKDIR={workdir}" in found
  assert message in found
  assert "Traceback" not in found


@pytest.mark.parametrize("word", HOSTILE)
def test_a_pod_of_gke(tmp_path, word):
  """The workdir is a variable of the pod, and no text of its script."""
  job = yaml.safe_load((LAUNCH / "gke.yaml").read_text())["spec"]
  pod = job["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
  workdir = tmp_path / "W" / word
  workdir.mkdir(parents=True)
  (workdir / "status.json").write_text('{"status": "complete"}')
  stub(tmp_path / "bin/python", WRITE)
  own = {"FAKE": str(tmp_path), "WORKDIR": str(workdir)}
  subprocess.run(
    pod["containers"][0]["command"],
    cwd=tmp_path,
    env={**os.environ, **own, **first_in_path(tmp_path / "bin")},
    check=True,
    timeout=60,
  )
  ((*_, flag, config, _),) = told(tmp_path)
  assert flag == f"--workdir={workdir}"
  assert config.startswith("--config=")
  assert not [*tmp_path.rglob("ran")]


def test_no_step_of_the_workflow_has_words_of_an_event():
  for path in (ROOT / ".github/workflows").glob("*.yml"):
    for job in yaml.safe_load(path.read_text())["jobs"].values():
      runs = [step["run"] for step in job["steps"] if "run" in step]
      assert runs
      assert not [run for run in runs if "${{" in run]
