"""Configs for tests: a shipped file with some values replaced."""

import pathlib

import numpy as np

import jssl
from jssl.config.command_line import read_file
from jssl.config.parse import complete, parse
from jssl.config.schema import Config

ROOT = pathlib.Path(jssl.__file__).parents[1]


def config_dict(name="quickstart", arg=None, **overrides):
  """Returns a complete ConfigDict; overrides are keyed `section.key`.

  A value given as a dict replaces the whole section.
  """
  path = ROOT / "configs" / f"{name}.py"
  values = read_file(f"{path}:{arg}" if arg else str(path)).to_dict()
  for key, value in overrides.items():
    *sections, leaf = key.split(".")
    node = values
    for section in sections:
      node = node.setdefault(section, {})
    node[leaf] = value
  return complete(values, Config)


def config(name="quickstart", arg=None, **overrides):
  """Returns a parsed config, see `config_dict`."""
  return parse(config_dict(name, arg, **overrides), Config)


CHANNELS = {"fashion_mnist": 1}
# Of the smallest split of it that a config takes.
IMAGES = {"fashion_mnist": 15_000}


class Shapes:
  """A source of which only the shapes are there."""

  def __init__(self, data):
    size = data.image_size_px
    self.image_shape = (size, size, CHANNELS.get(data.name, 3))
    self.name, self.num_classes = data.name, 10
    self.image_dtype = np.dtype(np.uint8)
    self.class_names = tuple(map(str, range(10)))

  def __len__(self):
    return IMAGES.get(self.name, 2**20)

  def fingerprint(self):
    return "shapes"

  def fetch(self, rows):
    raise NotImplementedError
