"""The `jssl` command and the wheel that installs it."""

import importlib.util
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from jssl import __main__ as command

ROOT = pathlib.Path(__file__).parents[1]
SHIPPED = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def jssl(*arguments, cwd=ROOT, package=ROOT):
  return subprocess.run(
    [sys.executable, "-m", "jssl", *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
    cwd=cwd,
    env={**os.environ, "PYTHONPATH": str(package)},
  )


@pytest.mark.parametrize("name", command._COMMANDS)
def test_a_command_is_a_module_that_can_be_run(name):
  module, summary = command._COMMANDS[name]
  spec = importlib.util.find_spec(module)
  if spec.submodule_search_locations:
    spec = importlib.util.find_spec(f"{module}.__main__")
  assert 'if __name__ == "__main__":' in pathlib.Path(spec.origin).read_text()
  assert summary.endswith(".")


def test_help_lists_the_commands_and_imports_nothing_heavy():
  code = (
    "import sys; from jssl.__main__ import main; sys.argv = ['jssl', '--help'];"
    "main(); print(*sys.modules, file=sys.stderr)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  for name in (*command._COMMANDS, "configs"):
    assert f"\n  {name} " in done.stdout
  loaded = done.stderr.split()
  assert not {"jax", "numpy", "absl", "ml_collections"} & set(loaded)


def test_a_command_gets_its_arguments(tmp_path):
  done = jssl("prepare", "folder", "--source", tmp_path / "nowhere")
  assert done.returncode == 1
  assert f"--source {tmp_path}/nowhere" in done.stderr


@pytest.mark.parametrize(
  ("flag", "arguments"),
  [
    ("export", ["probe"]),
    ("data_dir", ["probe"]),
    ("output", ["report"]),
    ("json", ["preflight", "--config=configs/quickstart.py", "--target=cpu:1"]),
    ("html", ["preflight", "--config=configs/quickstart.py", "--target=cpu:1"]),
    ("json", ["bench", "diagnostics", "--rows=64", "--dim=4", "--rounds=2"]),
  ],
)
def test_a_path_that_a_shell_did_not_expand(tmp_path, flag, arguments):
  workdir = [f"--workdir={tmp_path}"] * (arguments[0] in ("probe", "report"))
  done = jssl(*arguments, *workdir, f"--{flag}=~/x")
  assert done.returncode == 1
  assert f"error: --{flag}='~/x': expected the path of" in done.stderr
  assert not (ROOT / "~").exists()


def test_the_status_of_a_command_is_that_of_the_module(tmp_path):
  done = jssl("report", f"--workdir={tmp_path}")
  assert done.returncode == 1


@pytest.mark.parametrize(
  ("missing", "code", "expected"),
  [
    (
      ["absl", "flax"],
      "sys.argv = ['jssl', 'train']\n"
      "from jssl.__main__ import main\nsys.exit(main())",
      "error: `jssl train` needs the package absl: pip install 'jssl[train]'\n",
    ),
    (
      ["flax"],
      "from jssl import losses, models",
      "jssl.models needs the package flax: pip install 'jssl[train]'\n",
    ),
  ],
)
def test_a_base_install_names_the_extra(missing, code, expected):
  # As if the packages of the extra were not installed.
  hide = f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n"
  done = subprocess.run(
    [sys.executable, "-c", hide + code],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert done.stderr.endswith(expected)


def test_an_unknown_command(capsys, monkeypatch):
  monkeypatch.setattr(sys, "argv", ["jssl", "trian"])
  assert command.main() == 2
  assert "unknown command 'trian'" in capsys.readouterr().err


def test_configs_are_listed_with_their_first_line(capsys):
  assert command.configs([]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == SHIPPED
  assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize("name", ["quickstart", "study_head_update.py"])
def test_a_copied_config_works_elsewhere(name, tmp_path, capsys):
  assert command.configs(["copy", name, str(tmp_path / "mine")]) == 0
  first = pathlib.Path(capsys.readouterr().out.splitlines()[0])
  assert first.name == f"{name.removesuffix('.py')}.py"
  assert runpy.run_path(str(first))["get_config"]().data.batch_size > 0
  assert command.configs(["copy", name, str(tmp_path / "mine")]) == 1
  assert "exists" in capsys.readouterr().err


def next_command(output):
  (line,) = re.findall(r"^(?:.* )?Next: jssl (.*)$", output, re.MULTILINE)
  return shlex.split(line)


@pytest.mark.slow
def test_each_command_names_the_next_from_a_folder_to_a_report(tmp_path):
  rng = np.random.default_rng(0)
  for i in range(48):
    folder = tmp_path / "pictures" / ("dark", "light")[i % 2]
    folder.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 128, (90, 80, 3)) + 127 * (i % 2)
    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")

  def run(*arguments):
    done = jssl(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout

  printed = run(
    *("prepare", "folder", "--source=pictures", "--name=mine"),
    "--data_dir=data",
  )
  small = [
    *("--config.train.steps=4", "--config.data.batch_size=8"),
    "--config.optim.warmup_steps=1",
  ]
  printed = run(*next_command(printed), *small)
  printed = run(*next_command(printed))
  printed = run(*next_command(printed))
  assert printed.splitlines()[-1] == f"report: {tmp_path}/W/report.html"
  assert "pretrained, step 4" in printed


def test_wrong_arguments_of_configs(capsys):
  assert command.configs(["copy", "nothing"]) == 1
  assert "unknown config 'nothing'" in capsys.readouterr().err
  assert command.configs(["move", "quickstart"]) == 2


def test_the_wheel_holds_command_templates_and_configs(tmp_path):
  pytest.importorskip("hatchling")
  subprocess.run(
    [
      *(sys.executable, "-m", "hatchling", "build", "-t", "wheel"),
      *("-d", str(tmp_path)),
    ],
    check=True,
    cwd=ROOT,
    capture_output=True,
  )
  (wheel,) = tmp_path.glob("*.whl")
  installed = tmp_path / "site-packages"
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(installed)
  (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
  assert "jssl = jssl.__main__:main" in entry_points.read_text()
  for path in (ROOT / "jssl").rglob("*"):
    if path.is_file() and "__pycache__" not in path.parts:
      assert (installed / path.relative_to(ROOT)).is_file(), path
  listed = jssl("configs", cwd=tmp_path, package=installed)
  assert [line.split()[0] for line in listed.stdout.splitlines()] == SHIPPED
  copied = jssl(
    *("configs", "copy", "quickstart"), cwd=tmp_path, package=installed
  )
  assert copied.stdout == "quickstart.py\n"
  assert (tmp_path / "quickstart.py").is_file()
