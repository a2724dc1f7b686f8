"""A config's section as a frozen dataclass, whose fields are the keys.

From plain mappings, and knowing no section by name. What is wrong is said with
the key to change.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def suggest(name: object, names: Iterable[object]) -> str:
  """Returns which of the names may have been meant, or all of them."""
  name, names = str(name), sorted(map(str, names))
  close = difflib.get_close_matches(name, names, n=1)
  known = ", ".join(names)
  return f"did you mean {close[0]!r}?" if close else f"known: {known}"


def filled(name: str, given: Mapping[str, Any], cls: type[T]) -> T:
  """Returns the dataclass of a section, or of a section within one.

  What isn't given of a section within is that of its field's default.

  Args:
    name: of the section, as it stands before its keys.
    given: values by key.
    cls: the dataclass.

  Raises:
    ValueError: a key is unknown or missing, or a value out of range.
    TypeError: a value is of another type.
  """
  if not isinstance(given, Mapping):
    raise TypeError(f"{name}={given!r} must be a section of its own")
  hints = typing.get_type_hints(cls)
  fields = _fields(cls)
  values = {}
  for key, value in given.items():
    if key == "name" and "name" not in fields:
      continue  # It chose the class.
    if key not in fields:
      raise ValueError(f"{name}.{key} is not a key; {suggest(key, fields)}")
    default = fields[key].default
    if _is_section(default) and isinstance(value, Mapping):
      value = {**dataclasses.asdict(default), **value}
    values[key] = coerced(f"{name}.{key}", value, hints[key])
  for key, field in fields.items():
    if key not in values and field.default is dataclasses.MISSING:
      raise ValueError(f"{name}.{key} is missing from the config")
  return cls(**values)


def _is_section(value: Any) -> typing.TypeGuard[Any]:
  return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(cls: Any) -> dict[str, dataclasses.Field]:
  return {f.name: f for f in dataclasses.fields(cls) if f.init}


def coerced(key: str, value: Any, hint: Any) -> Any:
  """Returns a config value as the type of its field, or says what it should be.

  JSON has no tuples and ml_collections lets an int stand for a float.
  """
  origin = typing.get_origin(hint)
  if origin is tuple:
    if not isinstance(value, list | tuple):
      raise TypeError(f"{key}={value!r} must be a tuple")
    element = typing.get_args(hint)[0]
    return tuple(coerced(key, v, element) for v in value)
  if origin is typing.Literal:
    choices = typing.get_args(hint)
    if value not in choices:
      raise ValueError(f"{key}={value!r}: {suggest(str(value), choices)}")
    return value
  if isinstance(hint, type) and dataclasses.is_dataclass(hint):
    return filled(key, value, hint)
  if hint is float and type(value) is int:
    return float(value)
  if hint in (int, float, str, bool) and type(value) is not hint:
    raise TypeError(
      f"{key}={value!r} is of type {type(value).__name__}; it must be "
      f"{hint.__name__}"
    )
  return value


def completed(cls: type | None, given: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what is given of a section, and the defaults of the rest.

  A section within it, such as a head, is filled from the default of its field.
  """
  complete = dict(given)
  for key, field in _fields(cls).items() if cls else ():
    default = field.default
    if _is_section(default):
      complete[key] = {**dataclasses.asdict(default), **given.get(key, {})}
    elif default is not dataclasses.MISSING:
      complete.setdefault(key, default)
  return complete
