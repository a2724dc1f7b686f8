"""`import jssl` is cheap and gives every library; README keeps its size."""

import importlib
import pathlib
import subprocess
import sys

import pytest

import jssl

ROOT = pathlib.Path(jssl.__file__).parents[1]
LIBRARIES = [name for name in jssl.__all__ if name not in ("__version__",)]


@pytest.mark.parametrize("name", LIBRARIES)
def test_subpackages_are_attributes_after_import_jssl(name):
  code = f"import sys, jssl\nassert 'jax' not in sys.modules\njssl.{name}"
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
  "name", [name for name in LIBRARIES if name != "load_backbone"]
)
def test_subpackages_list_their_names(name):
  module = importlib.import_module(f"jssl.{name}")
  assert module.__doc__
  assert len(module.__all__) == len(set(module.__all__)) > 0
  for public in module.__all__:
    assert hasattr(module, public), public


def test_an_unknown_attribute_is_an_error():
  with pytest.raises(AttributeError, match="no attribute 'lossess'"):
    jssl.lossess  # noqa: B018


def test_config_files_import_nothing_heavy():
  code = (
    "import runpy, sys\nrunpy.run_path('configs/quickstart.py')\n"
    "print([m for m in ('jax', 'flax', 'optax', 'grain') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
  )
  assert done.stdout.strip() == "[]"


def test_the_readme_is_short():
  lines = (ROOT / "README.md").read_text().splitlines()
  assert len(lines) <= 150
  assert [line for line in lines if len(line) > 100] == []
