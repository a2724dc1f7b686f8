import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
from report.test_page import Page

from jssl.report.comparison import run_names
from jssl.report.read import read


def report(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "jssl.report", *arguments],
    capture_output=True,
    text=True,
    check=False,
  )


def test_writes_the_page_and_prints_the_table(workdir):
  done = report(f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  *_, pretrained, blank, last = done.stdout.splitlines()
  assert pretrained.startswith("pretrained, step 20  ")
  assert blank == ""
  assert last == f"report: {workdir / 'report.html'}"
  text = (workdir / "report.html").read_text()
  assert "20.2 ± 1.2" in text
  assert text.count("<svg") == 6
  # Views, the points of the map, the bar of colours, and neighbours.
  assert text.count("data:image/png") == 2 + 1 + 1 + 6 * 8
  assert not [*workdir.glob("*.tmp")]


@pytest.mark.slow
def test_a_terminal_that_takes_ascii_only(workdir, monkeypatch):
  monkeypatch.setenv("PYTHONIOENCODING", "ascii")
  done = report(f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  assert "20.2 +- 1.2" in done.stdout
  assert "20.2 ± 1.2" in (workdir / "report.html").read_text()


def test_output_and_a_workdir_that_is_none(tmp_path):
  done = report(f"--workdir={tmp_path}", f"--output={tmp_path / 'x.html'}")
  assert done.returncode == 1
  assert "--workdir must be the workdir of" in done.stderr
  assert "Traceback" not in done.stderr
  assert not [*tmp_path.iterdir()]


def test_help_imports_nothing_heavy():
  code = (
    "import sys, runpy\n"
    "sys.argv = ['report', '--help']\n"
    "try: runpy.run_module('jssl.report', run_name='__main__')\n"
    "except SystemExit: pass\n"
    "heavy = {'jax', 'numpy', 'matplotlib', 'sklearn'} & {*sys.modules}\n"
    "assert not heavy, heavy\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert "--workdir" in done.stdout


def test_several_runs(workdir, tmp_path_factory):
  other = tmp_path_factory.mktemp("other") / "run"
  shutil.copytree(workdir, other)
  config = json.loads((other / "config.json").read_text())
  config["optim"]["learning_rate"] = 0.5
  (other / "config.json").write_text(json.dumps(config))
  (other / "probe.jsonl").unlink()
  output = other / "both.html"
  done = report(str(workdir), str(other), f"--output={output}")
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == f"report: {output}"
  found = Page(output.read_text())
  names = [
    w.relative_to(os.path.commonpath([workdir, other]))
    for w in (workdir, other)
  ]
  assert ["optim.learning_rate", "0.001", "0.5"] in found.rows
  assert [row for row in found.rows if "." in row[0]] == [
    ["optim.learning_rate", "0.001", "0.5"]
  ]
  assert [row[:3] for row in found.rows if row[0] in map(str, names)] == [
    [str(names[0]), "20", "20.2 ± 1.2"],
    [str(names[1]), "-", "-"],
  ]
  assert "Not evaluated. No accuracy was measured." in found.visible
  assert "by 20.0 points" in found.visible


def test_no_workdir_is_an_error():
  done = report()
  assert done.returncode == 1
  assert "expected at least one workdir: jssl report WORKDIR" in done.stderr


def test_a_flag_beside_arguments_is_an_error():
  done = report("--workdir=A", "B", "C")
  assert done.returncode == 1
  assert "received --workdir=A and B C; name all runs" in done.stderr


def test_a_run_is_not_compared_with_itself(workdir):
  run = read(workdir)
  same = dataclasses.replace(run, workdir=workdir / "x" / "..")
  with pytest.raises(ValueError, match=r"different runs, received .* twice"):
    run_names([run, same])
