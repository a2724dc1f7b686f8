import subprocess
import sys


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
  # Views, the points of the map, and the bar of colours.
  assert text.count("data:image/png") == 2 + 1 + 1
  assert not [*workdir.glob("*.tmp")]


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
