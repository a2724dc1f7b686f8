"""Parses a `ConfigDict` into frozen dataclasses, whose fields are its keys.

A field that can be one of several dataclasses has them, by name, in its
metadata: `field(metadata={"classes": {...}})`. The `name` key chooses one.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

T = TypeVar("T")


def suggest(name: object, names: Iterable[object]) -> str:
  """Returns a hint: the closest of the known names, or all of them."""
  name, names = str(name), sorted(map(str, names))
  close = difflib.get_close_matches(name, names, n=1)
  known = ", ".join(names)
  return f"did you mean {close[0]!r}?" if close else f"known: {known}"


def parse(config: ConfigDict | Mapping[str, Any], cls: type[T]) -> T:
  """Parses a config; absent keys take the defaults of their fields.

  Raises:
    ValueError: if a key is unknown or missing, or a value out of range.
    TypeError: if a value has the wrong type.
  """
  given = config.to_dict() if isinstance(config, ConfigDict) else config
  return _section("", given, cls)


def complete(
  config: ConfigDict | Mapping[str, Any], cls: type[Any]
) -> ConfigDict:
  """Returns a config with every key of its sections, defaults filled in.

  Command-line flags can set only keys that exist. Values are not checked.
  """
  given = config.to_dict() if isinstance(config, ConfigDict) else config
  return ConfigDict(_with_defaults(cls, given))


def to_dict(config: Any) -> dict[str, Any]:
  """Inverse of `parse`: nested dicts of JSON types, `name` keys included."""
  result: dict[str, Any] = {}
  for key, field in _fields(type(config)).items():
    value = getattr(config, key)
    if _is_section(value):
      names = {c: n for n, c in field.metadata.get("classes", {}).items()}
      name = {"name": names[type(value)]} if names else {}
      result[key] = {**name, **to_dict(value)}
    else:
      result[key] = list(value) if isinstance(value, tuple) else value
  return result


def replace(config: T, changes: Mapping[str, Any]) -> T:
  """Returns a config with changes such as `{"data.batch_size": 64}`.

  Raises:
    ValueError: if a key is unknown or a value out of range.
    TypeError: if a value has the wrong type.
  """
  values = to_dict(config)
  for key, value in changes.items():
    *sections, name = key.split(".")
    node: Any = values
    for section in sections:
      node = node.get(section) if isinstance(node, dict) else None
    if not isinstance(node, dict) or name not in node:
      raise ValueError(f"config.{key} is not a key of the config")
    node[name] = value
  return parse(values, type(config))


def _fields(cls: Any) -> dict[str, dataclasses.Field]:
  return {f.name: f for f in dataclasses.fields(cls) if f.init}


def _is_section(value: Any) -> typing.TypeGuard[Any]:
  return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _join(section: str, key: str) -> str:
  return f"{section}.{key}" if section else key


def _section(name: str, given: Any, cls: type[T]) -> T:
  """Parses a section, or a section within one, such as a head."""
  if not isinstance(given, Mapping):
    raise TypeError(f"{name}={given!r} must be a section of its own")
  hints = typing.get_type_hints(cls)
  fields = _fields(cls)
  for key in given:
    if key not in fields:
      kind = "key" if name else "section"
      raise ValueError(
        f"{_join(name, key)} is not a {kind}; {suggest(key, fields)}"
      )
  values = {}
  for key, field in fields.items():
    full = _join(name, key)
    if classes := field.metadata.get("classes"):
      values[key] = _choice(full, given.get(key, {}), classes)
    elif key in given:
      value = given[key]
      if _is_section(field.default) and isinstance(value, Mapping):
        value = {**dataclasses.asdict(field.default), **value}
      values[key] = _coerce(full, value, hints[key])
    elif field.default is dataclasses.MISSING:
      if not dataclasses.is_dataclass(hints[key]):
        raise ValueError(f"{full} is missing from the config")
      values[key] = _section(full, {}, hints[key])
  return cls(**values)


def _choice(name: str, given: Any, classes: Mapping[str, type]) -> Any:
  """Parses a section as the class chosen by its `name` key."""
  if not isinstance(given, Mapping):
    raise TypeError(f"{name}={given!r} must be a section of its own")
  choice = str(given.get("name"))
  if choice not in classes:
    raise ValueError(f"{name}.name={choice!r}: {suggest(choice, classes)}")
  values = {key: value for key, value in given.items() if key != "name"}
  return _section(name, values, classes[choice])


def _coerce(key: str, value: Any, hint: Any) -> Any:
  """Checks a value against its field's type.

  JSON has no tuples, and ml_collections accepts an int for a float.
  """
  origin = typing.get_origin(hint)
  if origin is tuple:
    if not isinstance(value, list | tuple):
      raise TypeError(f"{key}={value!r} must be a tuple")
    element = typing.get_args(hint)[0]
    return tuple(_coerce(key, v, element) for v in value)
  if origin is typing.Literal:
    choices = typing.get_args(hint)
    if value not in choices:
      raise ValueError(f"{key}={value!r}: {suggest(value, choices)}")
    return value
  if isinstance(hint, type) and dataclasses.is_dataclass(hint):
    return _section(key, value, hint)
  if hint is float and type(value) is int:
    return float(value)
  if hint in (int, float, str, bool) and type(value) is not hint:
    raise TypeError(
      f"{key}={value!r} is of type {type(value).__name__}; it must be "
      f"{hint.__name__}"
    )
  return value


def _with_defaults(cls: Any, given: Mapping[str, Any]) -> dict[str, Any]:
  """Adds the defaults of absent keys, recursively."""
  result = dict(given)
  hints = typing.get_type_hints(cls)
  for key, field in _fields(cls).items():
    value = given.get(key, {})
    section = isinstance(value, Mapping)
    if classes := field.metadata.get("classes"):
      chosen = classes.get(value.get("name")) if section else None
      if chosen:
        result[key] = _with_defaults(chosen, value)
    elif _is_section(field.default) and section:
      defaults = dataclasses.asdict(field.default)
      result[key] = {**defaults, **value}
    elif dataclasses.is_dataclass(hints[key]) and section:
      result[key] = _with_defaults(hints[key], value)
    elif field.default is not dataclasses.MISSING:
      result.setdefault(key, field.default)
  return result
