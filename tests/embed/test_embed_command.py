"""`jssl embed` and `jssl neighbours` as a user starts them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from embed.made import make_run, write_images
from processes import ROOT, ends, start

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
  status, said, errors = run(
    *("embed", f"--workdir={made / 'W'}", f"--source={made / 'images'}"),
    *(f"--out={out}", "--workers=1"),
  )
  assert status == 0, errors
  assert "Omitted image" in said
  assert len(store.read(out).rows) == 20
  status, said, errors = run(
    "neighbours", f"--embeddings={out}", "--query=3.png,0", "--k=2"
  )
  assert status == 0, errors
  lines = said.splitlines()
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
    (["--workdir=none", "--source=a"], "none/config.json does not exist"),
  ],
)
def test_wrong_flags_are_named(arguments, message, tmp_path):
  status, _, errors = run("embed", *arguments, f"--out={tmp_path}/F.npz")
  assert status == 1
  assert f"error: {message}" in errors or message in errors
  assert "Traceback" not in errors


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
    status, said = ends(start(count, [*command, *several], devices=2))
    assert status == [0] * count, "\n".join(said)
    assert ["Wrote" in own for own in said] == [True, False][:count]
    found.append(store.read(out))
  one, two = found
  assert one.names == two.names
  assert json.dumps(one.about) == json.dumps(two.about)
  np.testing.assert_allclose(one.features, two.features, rtol=1e-4, atol=1e-5)
