"""`--config=FILE[:ARG]` and `--config.section.key=VALUE` on a command line.

FILE is the path of a config, or the name of a shipped one.
"""

import ast
import re
import runpy
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from absl import app
from ml_collections import ConfigDict

from jssl.config.parse import parse, replace
from jssl.runtime import shipped
from jssl.runtime.files import fetch
from jssl.runtime.paths import StorePath, as_path

T = TypeVar("T")

# The colon of a URL does not begin an argument.
_SPEC = re.compile(r"((?:[a-z][a-z0-9+.-]+://)?[^:]*)(:?)(.*)", re.DOTALL)
_OVERRIDE = re.compile(r"--?config\.([^=]*)(=?)(.*)", re.DOTALL)


def parse_flags(argv: list[str]) -> list[str]:
  """Flags parser for `app.run`; moves overrides of the config to the end."""
  overrides = [arg for arg in argv[1:] if _OVERRIDE.match(arg)]
  others = [arg for arg in argv if not _OVERRIDE.match(arg)]
  return [*app.parse_flags_with_usage(others), *overrides]


def run_file(path: str) -> dict[str, Any]:
  """Runs a config file, or the shipped one of that name; returns its names.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is not a Python file, or raises; names the line.
  """
  path = str(shipped.configs().get(path, path))
  file = as_path(path)
  if not file.is_file():
    raise FileNotFoundError(
      f"--config={path}: no such file, and no shipped config of that name; "
      "`jssl configs` lists them"
    )
  if file.suffix != ".py":
    raise ValueError(
      f"--config={path}: expected a Python file with a function get_config"
    )
  local = path
  if isinstance(file, StorePath):
    # A config may read others beside it.
    names = [beside.name for beside in file.parent.glob("*.py")]
    local = str(fetch(file.parent, names) / file.name)
  try:
    return runpy.run_path(local)
  except Exception as error:
    raise _error_of_file(f"--config={path}", local, error) from error


def _error_of_file(flag: str, path: str, error: Exception) -> ValueError:
  """Returns an error in one line, with the last line of the file that ran."""
  frames = traceback.extract_tb(error.__traceback__)
  lines = [f", line {f.lineno}" for f in frames if f.filename == path]
  kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
  text = " ".join(str(error).split())
  return ValueError(f"{flag}{lines[-1] if lines else ''}: {kind}{text}")


def read_file(spec: str) -> ConfigDict:
  """Returns the ConfigDict of `FILE`, or of `FILE:ARG`: `get_config(ARG)`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file or its `get_config` raises, such as for an unknown
      argument, or does not return a config.
  """
  path, colon, arg = _SPEC.fullmatch(spec).groups()  # type: ignore[union-attr]
  names = run_file(path)
  get_config = names.get("get_config")
  if not callable(get_config):
    raise ValueError(f"--config={path} has no function get_config")
  try:
    config = get_config(arg) if colon else get_config()
  except Exception as error:
    local = names["__file__"]
    raise _error_of_file(f"--config={spec}", local, error) from error
  if not isinstance(config, ConfigDict | Mapping):
    raise ValueError(
      f"--config={spec}: get_config returns {type(config).__name__}, expected "
      "ConfigDict"
    )
  return config


def load(spec: str, overrides: Sequence[str], cls: type[T]) -> T:
  """Reads `FILE[:ARG]`, parses it as `cls` and applies overrides.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if a key is unknown or a value out of range.
    TypeError: if a value has the wrong type.
  """
  return override(parse(read_file(spec), cls), overrides)


def override(config: T, overrides: Sequence[str], section: str = "") -> T:
  """Returns a config with the values of flags.

  Args:
    config: a parsed config.
    overrides: flags such as `--config.optim.learning_rate=0.1`. Values are
      Python literals, or plain text for strings; a tuple of one may omit
      brackets.
    section: the only section that may change; "" for all.

  Raises:
    ValueError: if a key is unknown or a value out of range.
    TypeError: if a value has the wrong type.
  """
  changes = {}
  for flag in overrides:
    match = _OVERRIDE.fullmatch(flag)
    section_of_flag = match[1].partition(".")[0] if match else ""
    if not match or not match[2] or section not in ("", section_of_flag):
      raise ValueError(
        f"unexpected argument {flag!r}; set a value of the config with "
        f"--config.{section or 'SECTION'}.KEY=VALUE"
      )
    changes[match[1]] = match[3]
  return replace(config, changes, _read)


def _read(text: str, old: Any) -> Any:
  """Returns the value that a flag gives to a key whose value was `old`."""
  if isinstance(old, str):
    return text
  try:
    value = float(text) if isinstance(old, float) else ast.literal_eval(text)
  except (ValueError, SyntaxError):
    value = {"true": True, "false": False}.get(text.lower(), text)
  one = isinstance(old, tuple) and not isinstance(value, tuple | list)
  return (value,) if one else value
