"""`jssl weights show` and `jssl weights convert`."""

import ast
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from jssl import weights
from jssl.models import MODELS
from jssl.weights import convert
from tests.weights.test_published import FIXTURES


def jssl(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "jssl", "weights", *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
  )


def test_a_file_is_shown():
  path = FIXTURES / "hf_dinov2"
  done = jssl("show", path)
  assert done.returncode == 0, done.stderr
  section, report = done.stdout.split("images: ")
  fields = ast.literal_eval(section.removeprefix('"model":').strip())
  assert "qkv_bias" not in fields  # A default.
  published = weights.Published(path)
  assert MODELS[fields.pop("name")](**fields) == published.model
  height, _, channels = published.image_shape
  assert report.startswith(f"{height} x {height} px, {channels} channels\n")
  assert report.endswith(f"{published.report}\n")
  assert "layout hf_dinov2\n" in report


def test_errors_are_one_line(tmp_path):
  done = jssl("show", FIXTURES / "hf_dinov2", "--layout=mae")
  assert done.returncode == 1
  assert done.stderr.startswith(f"error: {FIXTURES}/hf_dinov2: expected tensor")
  done = jssl("convert", tmp_path)
  assert done.returncode == 1
  assert "expected `show PATH` or `convert IN.pth OUT" in done.stderr


def test_nested_dicts_are_flattened():
  a, b, c = np.arange(3)
  values = {"model": {"norm.weight": a, "head": {0: b}}, "epoch": 7, "last": c}
  assert dict(convert.flatten(values)) == {
    "model.norm.weight": a,
    "model.head.0": b,
    "epoch": 7,
    "last": c,
  }


def test_without_torch(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  source, target = tmp_path / "in.pth", tmp_path / "out.safetensors"
  source.write_bytes(b"PK")
  with pytest.raises(ImportError, match=r"pip install 'jssl\[torch\]'") as info:
    convert.convert(source, target)
  assert f"convert.py {source} {target}`" in str(info.value)
  assert not target.exists()


def test_files_are_checked_first(tmp_path):
  source = tmp_path / "in.pth"
  with pytest.raises(FileNotFoundError, match="does not exist"):
    convert.convert(source, tmp_path / "out.safetensors")
  source.write_bytes(b"PK")
  with pytest.raises(FileExistsError, match="expected the name of a new file"):
    convert.convert(source, source)
  assert source.read_bytes() == b"PK"


def needs_torch(test):
  missing = "JSSL_TORCH_PYTHON" not in os.environ
  reason = "JSSL_TORCH_PYTHON names no interpreter with torch"
  return pytest.mark.slow(pytest.mark.skipif(missing, reason=reason)(test))


def run_torch(*arguments, check=True):
  return subprocess.run(
    [os.environ["JSSL_TORCH_PYTHON"], *arguments],
    check=check,
    capture_output=True,
    text=True,
  )


def converted(source, *, check=True):
  """Runs the file alone, in an environment without jssl."""
  target = source.with_suffix(".safetensors")
  return target, run_torch(convert.__file__, source, target, check=check)


@needs_torch
def test_a_training_file(tmp_path):
  source, folder = tmp_path / "in.pth", FIXTURES / "resnet18"
  script = f"""
import argparse, torch
from safetensors.torch import load_file
tensors = load_file("{folder}/model.safetensors")
tied = torch.arange(6.0).reshape(2, 3)
values = {{
  "state_dict": {{f"module.{{k}}": v for k, v in tensors.items()}},
  "tied": {{"a": tied, "b": tied, "transposed": tied.T, "row": tied[1]}},
  "half": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
  "epoch": 3,
  "args": argparse.Namespace(arch="resnet18"),
}}
torch.save(values, "{source}")
"""
  run_torch("-c", script)
  target, done = converted(source)
  assert done.stdout.endswith("dropped epoch, args.\n")
  found = load_file(target)
  tied = np.arange(6, dtype=np.float32).reshape(2, 3)
  parts = {"a": tied, "b": tied, "transposed": tied.T, "row": tied[1]}
  for name, value in parts.items():
    np.testing.assert_array_equal(found.pop(f"tied.{name}"), value)
  assert found.pop("half").dtype.name == "bfloat16"
  expected = load_file(folder / "model.safetensors")
  assert len(found) == len(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[f"state_dict.module.{name}"], value)
  _, again = converted(source, check=False)
  assert "FileExistsError" in again.stderr


@needs_torch
@pytest.mark.parametrize(
  ("statement", "message"),
  [
    ("torch.save(Evil(), {!r})", "(Trying to load unsupported GLOBAL posix"),
    ("torch.save(Own(), {!r})", "(Unsupported global: GLOBAL __main__.Own "),
    ("open({!r}, 'wb').write(b'')", "save only its state_dict (EOFError)"),
    ("open({!r}, 'wb').write(b'PK12')", "refuses it; save only its state_dict"),
    ("torch.save({{'epoch': 3}}, {!r})", "has no tensors, only epoch"),
  ],
)
def test_a_file_runs_nothing(statement, message, tmp_path):
  source, ran = tmp_path / "in.pth", tmp_path / "ran"
  script = f"""
import os, torch
class Evil:
  def __reduce__(self):
    return os.mkdir, ("{ran}",)
class Own:
  pass
{statement.format(str(source))}
"""
  run_torch("-c", script)
  _, done = converted(source, check=False)
  assert done.returncode == 1
  last = done.stderr.splitlines()[-1]
  assert last.startswith(f"ValueError: {source}")
  assert message in last
  assert "False" not in last
  assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]
