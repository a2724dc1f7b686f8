"""`--config=FILE[:ARG]` and `--config.section.key=VALUE` on a command line."""

import re
import runpy
from collections.abc import Sequence
from typing import TypeVar

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from jssl.config.parse import complete, parse

T = TypeVar("T")

_OVERRIDE = re.compile(r"--?config\.")


def parse_flags(argv: list[str]) -> list[str]:
  """Flags parser for `app.run`; moves overrides of the config to the end."""
  overrides = [arg for arg in argv[1:] if _OVERRIDE.match(arg)]
  others = [arg for arg in argv if not _OVERRIDE.match(arg)]
  return [*app.parse_flags_with_usage(others), *overrides]


def read_file(spec: str) -> ConfigDict:
  """Returns the ConfigDict of `FILE`, or of `FILE:ARG`: `get_config(ARG)`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file has no `get_config` or does not know the argument.
  """
  path, colon, arg = spec.partition(":")
  get_config = runpy.run_path(path).get("get_config")
  if get_config is None:
    raise ValueError(f"--config={path} has no function get_config")
  return get_config(arg) if colon else get_config()


def load(spec: str, overrides: Sequence[str], cls: type[T]) -> T:
  """Reads `FILE[:ARG]`, applies overrides and parses the result as `cls`.

  Overrides are flags such as `--config.optim.learning_rate=0.1`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if a key is unknown or a value out of range.
    TypeError: if a value has the wrong type.
  """
  config = complete(read_file(spec), cls)
  for flag in overrides:
    if not _OVERRIDE.match(flag) or "=" not in flag:
      raise ValueError(
        f"unexpected argument {flag!r}; set a value of the config with "
        "--config.SECTION.KEY=VALUE"
      )
  argv = ["", *overrides]
  values = flags.FlagValues()
  try:
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=values, sys_argv=argv
    )
    values(argv)
  except (flags.Error, AttributeError, KeyError, TypeError) as error:
    raise ValueError(f"{' '.join(overrides)}: {error}") from error
  return parse(config, cls)
