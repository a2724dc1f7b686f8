"""Configs for tests: a shipped file with some values replaced."""

import pathlib

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
