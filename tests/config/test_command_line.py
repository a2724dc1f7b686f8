"""Config files and flags with mistakes: one line each, nothing claimed."""

import json
import subprocess
import sys

import pytest
from shipped import ROOT, config

from jssl.config.command_line import load
from jssl.config.parse import to_dict
from jssl.config.schema import Config

QUICKSTART = "configs/quickstart.py"


def get(spec, *flags):
  return load(str(ROOT / spec), flags, Config)


def write(tmp_path, text, name="mine.py"):
  path = tmp_path / name
  path.write_text(text)
  return str(path)


FILES = {
  "syntax": ("def get_config(:\n", r"SyntaxError: .*line 1"),
  "raises": ("x = 1\nx / 0\n", "line 2: ZeroDivisionError: division by zero"),
  "raises later": (
    "def get_config():\n  return [][3]\n",
    "line 2: IndexError: list index out of range",
  ),
  "imports": (
    "import nonesuch\n",
    "line 1: ModuleNotFoundError: No module named 'nonesuch'",
  ),
  "no get_config": ("config = {}\n", "has no function get_config"),
  "get_config is no function": ("get_config = 3\n", "has no function"),
  "returns nothing": (
    "def get_config():\n  pass\n",
    "get_config returns NoneType, expected ConfigDict",
  ),
  "takes no variant": (
    "def get_config(a, b):\n  pass\n",
    "TypeError: get_config.. missing 2 required positional arguments",
  ),
  "several lines": (
    "raise RuntimeError('one\\ntwo')\n",
    "line 1: RuntimeError: one two",
  ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_faulty_file_is_one_line_with_its_place(name, tmp_path):
  text, message = FILES[name]
  path = write(tmp_path, text)
  with pytest.raises(ValueError, match=message) as caught:
    load(path, (), Config)
  assert str(caught.value).startswith(f"--config={path}")
  assert "\n" not in str(caught.value)


def test_a_config_of_a_workdir_is_no_config_file(tmp_path):
  path = write(tmp_path, json.dumps(to_dict(config())), "config.json")
  with pytest.raises(ValueError, match=r"config\.json: expected a Python file"):
    load(path, (), Config)


def test_a_shipped_config_has_a_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  by_name = load("fashion_mnist:dino", (), Config)
  assert by_name == get("configs/fashion_mnist.py:dino")


@pytest.mark.parametrize("path", ["nowhere.py", "configs"])
def test_a_missing_file_is_named(path):
  with pytest.raises(
    FileNotFoundError, match=f"--config=.*{path}: no such file"
  ):
    get(path)


def test_an_unknown_variant_names_file_and_variant():
  with pytest.raises(
    ValueError, match=r"--config=.*quickstart.py:big, line .*big"
  ):
    get(f"{QUICKSTART}:big")
  match = "dino_imagenet.py:vit.*unknown variant 'vit'; known: "
  with pytest.raises(ValueError, match=match):
    get("configs/dino_imagenet.py:vit")


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--config.optim.learning_rat=1", "did you mean 'learning_rate'"),
    ("--config.optm.learning_rate=1", "did you mean 'optim'"),
    ("--config.optim.learning_rate.x=1", "optim.learning_rate.x is not a key"),
    ("--config.sed=1", "config.sed is not a key.*'seed'"),
    ("--config.=1", "config. is not a key"),
    ("--config.objective.projector.out=1", "did you mean 'out_dim'"),
    ("--config.head.update=alternating", "config.head.update is not a key"),
    ("--config.optim.learning_rate", "unexpected argument"),
    ("--config.train=3", "train=.* must be a section"),
    (
      "--config.objective.name=byol",
      "objective.name='byol': .* section 'objective' is that of 'simclr'.*"
      "temperature",
    ),
    ("--config.model.name=resnet", "section 'model' is that of 'vit'.*patch"),
    ("--config.objective.name=nonesuch", "objective.name='nonesuch'"),
    ("--config.optim.name=adm", "optim.name='adm'.*adamw"),
  ],
)
def test_a_wrong_flag_is_one_line_with_its_key(flag, message):
  with pytest.raises((ValueError, TypeError), match=message) as caught:
    get(QUICKSTART, flag)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("flag", "value"),
  [
    ("data.name=imagenet_a:1.0.0", "imagenet_a:1.0.0"),
    ("data.data_dir=1", "1"),
    ("data.in_memory=False", False),
    ("data.in_memory=false", False),
    ("train.steps=1_000", 1000),
    ("optim.learning_rate=1", 1.0),
    ("optim.learning_rate=3e-4", 3e-4),
    ("probe.knn_neighbours=(3, 4)", (3, 4)),
    ("probe.knn_neighbours=3,4", (3, 4)),
    ("probe.knn_neighbours=3", (3,)),
    ("probe.probes=knn", ("knn",)),
    ("probe.probes=('knn', 'mlp')", ("knn", "mlp")),
    ("probe.baselines=()", ()),
    ("objective.projector.hidden_dims=[7]", (7,)),
    ("objective.name=dcl", "dcl"),
  ],
)
def test_values_are_literals_of_the_keys_type(flag, value):
  found = get(QUICKSTART, f"--config.{flag}")
  node = to_dict(found)
  for part in flag.partition("=")[0].split("."):
    node = node[part]
  assert node == value
  assert type(node) is type(value)


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("train.steps=1e3", "train.steps=1000.0 is of type float.*int"),
    ("train.steps=many", "train.steps='many' is of type str.*int"),
    ("data.in_memory=1", "data.in_memory=1 is of type int.*bool"),
    ("optim.learning_rate=fast", "optim.learning_rate='fast'.*float"),
    ("probe.knn_neighbours=few", "probe.knn_neighbours='few'.*int"),
  ],
)
def test_values_of_another_type_are_refused(flag, message):
  with pytest.raises(TypeError, match=message):
    get(QUICKSTART, f"--config.{flag}")


def test_flags_that_fit_together_are_read_together():
  """Each alone is refused."""
  flags = ["--config.head.strategy=implicit", "--config.head.l2=0.1"]
  assert get(QUICKSTART, *flags).head.l2 == 0.1


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--config=MINE"], "SyntaxError"),
    ([f"--config={QUICKSTART}", "--config.data.workers=-1"], "data.workers=-1"),
    ([f"--config={QUICKSTART}", "--config.data.name="], 'data.name=""'),
    (
      [f"--config={QUICKSTART}", "--config.data.data_dir=~/x"],
      "data.data_dir='~/x'",
    ),
  ],
)
def test_the_command_ends_in_one_line_and_claims_nothing(
  arguments, message, tmp_path
):
  mine = write(tmp_path, "def get_config(:\n")
  workdir = tmp_path / "W"
  done = subprocess.run(
    [
      *(sys.executable, "-m", "jssl.train", f"--workdir={workdir}"),
      *(argument.replace("MINE", mine) for argument in arguments),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  (line,) = [x for x in done.stderr.splitlines() if message in x]
  assert line.startswith("error: ")
  assert "Traceback" not in done.stderr
  assert not workdir.exists()
