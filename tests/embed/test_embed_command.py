"""`jssl embed` and `jssl neighbours` as a user starts them."""

import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from embed.made import make_run, write_images
from processes import ROOT, ends, start

from jssl import checkpoint
from jssl.embed import store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp("made")
  make_run(folder / "W")
  write_images(folder / "images", [f"{i}.png" for i in range(21)])
  (folder / "images" / "13.png").write_bytes(b"GIF89a")
  return folder


def run(*arguments):
  done = subprocess.run(
    [sys.executable, "-m", "jssl", *map(str, arguments)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  return done.returncode, done.stdout, done.stderr


def test_embed_then_neighbours(made, tmp_path):
  out = tmp_path / "F.parquet"
  status, output, errors = run(
    *("embed", f"--workdir={made / 'W'}", f"--source={made / 'images'}"),
    *(f"--out={out}", "--workers=1"),
  )
  assert status == 0, errors
  assert "Omitted image" in output
  assert len(store.read(out).rows) == 20
  status, output, errors = run(
    "neighbours", f"--embeddings={out}", "--query=3.png,0", "--k=2"
  )
  assert status == 0, errors
  lines = output.splitlines()
  assert lines[0].split() == ["query", "rank", "cosine", "index", "name"]
  assert [line.split()[:2] for line in lines[2:]] == [
    [query, rank] for query in ("3.png", "0") for rank in ("1", "2")
  ]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--workdir=W"], "expected one of --source, --list, --dataset, received"),
    (
      ["--workdir=W", "--source=a", "--list=b"],
      "received --source and --list",
    ),
    (["--source=a"], "expected one of --workdir, --weights, received none"),
    (["--workdir=W", "--source=a", "--split=test"], "--split needs --dataset"),
    (["--workdir=W", "--source=~/a"], "--source='~/a': expected the path"),
    (
      ["--workdir=W", "--source=gs://b/a"],
      "--source=gs://b/a: expected a path on a disk",
    ),
    (["--workdir=none", "--source=a"], "none/config.json does not exist"),
  ],
)
def test_wrong_flags_are_named(arguments, message, tmp_path):
  status, _, errors = run("embed", *arguments, f"--out={tmp_path}/F.npz")
  assert status == 1
  assert f"error: {message}" in errors or message in errors
  assert "Traceback" not in errors


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_file(made, tmp_path):
  def command(out):
    return [
      *("-m", "jssl.embed", f"--workdir={made / 'W'}", f"--out={out}"),
      *("--dataset=cluttered_digits", "--batch_size=64"),
    ]

  whole, out = tmp_path / "whole.parquet", tmp_path / "F.parquet"
  (killed,) = start(1, command(out), devices=1)
  first = tmp_path / "F.parquet.parts" / "000000.parquet"
  while not first.exists() and killed.poll() is None:
    time.sleep(0.01)
  killed.kill()
  assert killed.wait() == -signal.SIGKILL, killed.stdout.read()
  killed.stdout.close()
  assert first.exists()
  assert not out.exists()
  for path in (out, whole):
    status, (output,) = ends(start(1, command(path), devices=1))
    assert status == [0], output
    assert ("Resumed from image " in output) == (path == out)
  assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_two_processes_equal_one(made, tmp_path):
  found = []
  for count in (1, 2):
    out = tmp_path / f"{count}.parquet"
    command = [
      *("-m", "jssl.embed", f"--workdir={made / 'W'}", "--tokens"),
      *(f"--source={made / 'images'}", f"--out={out}", "--batch_size=8"),
    ]
    several = ["--distributed"] if count > 1 else []
    status, output = ends(start(count, [*command, *several], devices=2))
    assert status == [0] * count, "\n".join(output)
    assert ["Wrote" in own for own in output] == [True, False][:count]
    found.append(store.read(out))
  one, two = found
  assert one.names == two.names
  assert json.dumps(one.about) == json.dumps(two.about)
  np.testing.assert_allclose(one.features, two.features, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["nothing finite", "nothing to read"])
def test_all_processes_raise_the_error(made, tmp_path, problem):
  workdir, source = tmp_path / "W", f"--source={made / 'images'}"
  make_run(workdir)
  message = "20 of the features of images 0 to 20 of images are not finite"
  if problem == "nothing finite":
    broken = jax.tree.map(
      lambda x: np.full_like(x, np.nan), checkpoint.restore_backbone(workdir, 1)
    )
    with checkpoint.Checkpoints(
      workdir, keep_last=3, keep_every_steps=None
    ) as checkpoints:
      checkpoints.save(2, {"backbone": broken})
  else:
    (tmp_path / "list.txt").write_text("none.png\nnor.png\n")
    source = f"--list={tmp_path / 'list.txt'}"
    message = "none of the 2 images of list.txt can be read; the first: none.pn"
  command = [
    *("-m", "jssl.embed", f"--workdir={workdir}", source, "--distributed"),
    f"--out={tmp_path / 'F.npz'}",
  ]
  status, output = ends(start(2, command, devices=2))
  assert status == [1, 1], "\n".join(output)
  assert all(message in own for own in output), output
