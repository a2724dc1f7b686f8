"""A slice of two workers, which are two folders here; who looks after it."""

import os
import re
import shutil
import subprocess
import time

import pytest
from launch.stubs import LAUNCH, ROOT, STATUS, first_in_path, said, stub


def test_a_pod_is_queued_trained_on_and_given_back():
  lines = said(
    "tpu_pod.sh",
    *("--dry-run", "pod", "us-west4-a", "v5litepod-256", "c.py", "gs://data/w"),
    "--config.seed=1",
  ).splitlines()
  tpus = "gcloud compute tpus"
  at = "pod --zone=us-west4-a"
  worker = "bash jssl/launch/tpu_worker.sh"
  ssh = f"{tpus} tpu-vm ssh {at} --worker=all --command="
  create, pack, copy, install, start, look, delete = (
    line.replace("\\", "") for line in lines
  )
  assert create == (
    f"{tpus} queued-resources create {at} --node-id=pod "
    "--accelerator-type=v5litepod-256 --runtime-version=v2-alpha-tpuv5-lite "
    "--spot"
  )
  assert pack.endswith("pyproject.toml README.md LICENSE jssl configs launch")
  archive = pack.split()[3]
  assert copy == f"{tpus} tpu-vm scp {archive} pod: {at[4:]} --worker=all"
  assert install.startswith(ssh + "mkdir -p jssl && tar -xzf jssl.tar.gz")
  assert install.endswith(f"&& {worker} install")
  assert start == f"{ssh}{worker} start c.py gs://data/w --config.seed=1"
  assert look.startswith(f"{ssh}{worker} state gs://data/w")
  assert delete == f"{tpus} queued-resources delete {at} --force --quiet"


def test_all_that_gcloud_is_told_was_checked():
  """docs/launch.md has each command, and its flags."""
  rows = re.findall(
    r"^\| `(gcloud .*?)` \| (.*?) \|",
    (ROOT / "docs/launch.md").read_text(),
    re.MULTILINE,
  )
  checked = {
    command: set(re.findall(r"`(--[\w-]+)`", flags)) for command, flags in rows
  }
  dry = ("--dry-run", "pod", "z", "v5p-8", "c.py", "w")
  # A dry run asks for no state.
  told = {
    "gcloud compute tpus queued-resources describe": {"--zone", "--format"}
  }
  for line in said("tpu_pod.sh", *dry).splitlines():
    if line.startswith("gcloud"):
      command = " ".join(line.split()[:5])
      # What follows is for the workers.
      own = re.sub(r"(--command=).*", r"\1", line)
      told.setdefault(command, set()).update(re.findall(r" (--[\w-]+)", own))
  assert checked == told


def test_a_pod_that_is_kept_and_one_that_is_not_known():
  arguments = ("--dry-run", "pod", "z", "v4-8", "c.py", "w")
  assert "--spot" not in said("tpu_pod.sh", *arguments, SPOT="0")
  unknown = ("--dry-run", "pod", "z", "v9-8", "c.py", "w")
  message = said("tpu_pod.sh", *unknown, status=1)
  assert "v9-8: set RUNTIME to its software version" in message


# A state for each time it is asked, the last one for ever; what ssh is told is
# done in the folder of the worker, twice where a connection breaks.
GCLOUD = """
cd "$(dirname "$0")/.."
last=${!#}
echo "$@" >> calls
case "$*" in
  *describe*)
    line=$(head -n 1 states)
    [ "$(wc -l < states)" = 1 ] || sed -i 1d states
    case $line in ERROR*) echo "$line" >&2; exit 1 ;; *) echo "$line" ;; esac ;;
  *scp*) for folder in 0 1; do cp "$5" $folder/; done ;;
  *ssh*)
    failed=0
    for folder in 0 1; do
      for _ in $(cat times); do
        (cd $folder && bash -c "${last#--command=}") || failed=$?
      done
    done
    exit $failed ;;
esac
"""
# The Python of a worker. TRAIN says what the training does.
PYTHON = f"""
{STATUS}
case "$*" in
  *"pip install"*) exit "${{PIP:-0}}" ;;
  *jssl.train*)
    echo "$JAX_COMPILATION_CACHE_DIR $*" >> "$FAKE/trained"
    eval "$TRAIN" ;;
esac
"""
SAVE = """
step=$(wc -l < "$FAKE/trained")
mkdir -p "$FAKE/W/checkpoints/$step"
touch "$FAKE/W/checkpoints/$step/manifest.json"
"""
# Runs until it was seen to run: the script asks for its state a second time.
COMPLETE = (
  "asked() { grep -c ' state ' \"$FAKE/calls\"; }; before=$(asked); "
  'until [ "$(asked)" -ge $((before + 2)) ]; do sleep 0.1; done; '
  'echo \'{"status": "complete"}\' > "$FAKE/W/status.json"'
)


@pytest.fixture
def attend(tmp_path):
  """Runs tpu_pod.sh; returns its status, what gcloud was told, trainings."""
  stub(tmp_path / "bin/gcloud", GCLOUD)
  for folder in ("0", "1"):
    stub(tmp_path / folder / "jssl/.venv-tpu/bin/python", PYTHON)
  (tmp_path / "W").mkdir()

  def run(states, train, *, times="1", **environ):
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    (tmp_path / "times").write_text(times)
    own = {"FAKE": str(tmp_path), "TRAIN": train, "POLL": "0.2", **environ}
    done = subprocess.run(
      [
        *("bash", str(LAUNCH / "tpu_pod.sh"), "pod", "z", "v4-8"),
        *("c.py", f"{tmp_path}/W", "--config.seed=1"),
      ],
      env={**os.environ, **first_in_path(tmp_path / "bin"), **own},
      capture_output=True,
      text=True,
      check=False,
      timeout=100,
    )
    words = "create", "delete", " install", " start "
    calls = [
      word.strip()
      for line in (tmp_path / "calls").read_text().splitlines()
      for word in words
      if word in line
    ]
    trained = tmp_path / "trained"
    lines = trained.read_text().splitlines() if trained.exists() else []
    return done, calls, lines

  return run


@pytest.mark.parametrize("times", ["1", "1 2"])
def test_a_run_goes_through(attend, tmp_path, times):
  """A connection that breaks, and is made again, starts no second training."""
  states = ["ERROR: NOT_FOUND: no such thing", "PROVISIONING", "ACTIVE"]
  done, calls, trained = attend(states, COMPLETE, times=times)
  assert done.returncode == 0, done.stderr
  assert calls == ["create", "install", "start", "delete"]
  assert len(trained) == 2
  for line in trained:
    cache, arguments = line.split(" ", 1)
    # Beside the workdir, where it outlives the slice.
    assert cache == f"{tmp_path}/compiled"
    assert arguments == (
      f"-m jssl.train --distributed --config=c.py --workdir={tmp_path}/W "
      "--config.seed=1"
    )
  assert "jssl: running at 0" in done.stdout
  # What runs there is this checkout.
  copied = tmp_path / "1/jssl/launch/tpu_worker.sh"
  assert copied.read_text() == (LAUNCH / "tpu_worker.sh").read_text()


def test_an_error_of_gcloud_queues_nothing(attend):
  states = ["ERROR: UNAVAILABLE: try again", "ACTIVE"]
  done, calls, _ = attend(states, COMPLETE)
  assert done.returncode == 0
  assert "UNAVAILABLE" in done.stderr
  assert "create" not in calls


def test_a_slice_that_was_preempted_is_replaced(attend):
  states = ["SUSPENDED", "ERROR: NOT_FOUND: gone", "ACTIVE"]
  done, calls, _ = attend(states, COMPLETE)
  assert done.returncode == 0, done.stderr
  assert calls == ["delete", "create", "install", "start", "delete"]


def test_a_run_that_dies_and_gets_on_is_started_again(attend):
  """As often as it has to be, as long as there are new checkpoints."""
  often = f'{SAVE}[ "$step" -lt 10 ] || {{ {COMPLETE}; exit 0; }}; exit 134'
  done, calls, _ = attend(["ACTIVE"], often)
  assert done.returncode == 0, done.stderr
  assert calls.count("start") >= 5
  assert calls[-1] == "delete"


@pytest.mark.parametrize(
  ("train", "environ", "starts", "installs"),
  [
    ("echo OOPS; exit 134", {}, 3, 3),
    ("echo OOPS; exit 1", {}, 1, 1),
    # One worker met an error, and JAX ended the other.
    ('echo OOPS; [ "${PWD: -6}" = 0/jssl ] && exit 134; exit 1', {}, 1, 1),
    # What isn't installed isn't started.
    ("exit 0", {"PIP": "1"}, 0, 3),
    # A checkpoint that is seen now and then is not a new one each time.
    (
      f'echo OOPS; [ "${{PWD: -6}}" = 0/jssl ] || exit 134; cd "$FAKE/W"; '
      f"mv checkpoints hidden || mv hidden checkpoints || {{ {SAVE} }}; "
      "exit 134",
      {},
      4,
      4,
    ),
  ],
)
def test_a_run_that_fails_is_given_up(attend, train, environ, starts, installs):
  done, calls, _ = attend(["ACTIVE"], train, **environ)
  assert done.returncode == 1
  assert calls.count("install") == installs
  assert calls.count("start") == starts
  # Nothing stays rented, and the log is shown.
  assert calls[-1] == "delete"
  assert ("OOPS" in done.stderr) == (starts > 0)


def worker(folder, *arguments, **environ):
  return subprocess.run(
    ["bash", str(folder / "launch/tpu_worker.sh"), *arguments],
    env={**os.environ, **first_in_path(folder / "bin"), **environ},
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )


def test_what_a_worker_says(tmp_path):
  shutil.copytree(LAUNCH, tmp_path / "launch")
  stub(tmp_path / ".venv-tpu/bin/python", f'{STATUS}\nsleep 4; exit "$CODE"')

  def says():
    done = worker(tmp_path, "state", "W")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

  assert says() == "jssl: ended killed at 0"
  began = time.monotonic()
  for _ in range(2):
    assert worker(tmp_path, "start", "c.py", "W", CODE="7").returncode == 0
  # Nobody waits for it.
  assert time.monotonic() - began < 4
  assert says() == "jssl: running at 0"
  for step in ("9", "12", "20.orbax-checkpoint-tmp"):
    (tmp_path / "W/checkpoints" / step).mkdir(parents=True)
  for step in ("9", "12"):
    (tmp_path / "W/checkpoints" / step / "manifest.json").touch()
  while (state := says()) == "jssl: running at 12":
    time.sleep(0.2)
  assert state == "jssl: ended 7 at 12"
  (tmp_path / "W/status.json").write_text('{"status": "complete"}')
  assert says() == "jssl: complete at 12"


def test_a_worker_gets_a_python(tmp_path):
  shutil.copytree(LAUNCH, tmp_path / "launch")
  told = f'echo "$(basename "$0")" "$@" >> {tmp_path}/told'
  stub(
    tmp_path / "uv",
    f"{told}\nmkdir -p .venv-tpu/bin && cp {tmp_path}/python .venv-tpu/bin/",
  )
  stub(tmp_path / "python", told)
  stub(
    tmp_path / "bin/python3",
    f"{told}\nmkdir -p .uv/bin && cp {tmp_path}/uv .uv/bin/",
  )
  done = worker(tmp_path, "install")
  assert done.returncode == 0, done.stderr
  lines = (tmp_path / "told").read_text().splitlines()
  assert lines[0].startswith("python3 -m pip install")
  assert lines[1] == "uv venv --quiet --seed --python 3.12 .venv-tpu"
  versions = "--constraint launch/constraints.txt"
  assert lines[-1].endswith(f"install --quiet {versions} --editable .[tpu,gcs]")
  # A second time all of it is there.
  (tmp_path / "told").unlink()
  assert worker(tmp_path, "install").returncode == 0
  lines = (tmp_path / "told").read_text().splitlines()
  assert [line.split()[0] for line in lines] == ["python", "python"]
