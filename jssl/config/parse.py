"""Parses a `ConfigDict` into frozen dataclasses; its keys are their fields.

A field whose class is chosen by a `name` key lists its classes in its metadata:
`field(metadata={"classes": {...}})`. A class with `presets` takes one of their
names as the key `preset`, which the parsed config does not keep.
"""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from jssl.typing import check_value

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

  Command-line flags can set only keys that exist. Raises as `parse` does.
  """
  return ConfigDict(to_dict(parse(config, cls)))


def to_dict(config: Any) -> dict[str, Any]:
  """Inverse of `parse`: nested dicts with `name` keys, for JSON."""
  result: dict[str, Any] = {}
  for key, field in _fields(type(config)).items():
    value = getattr(config, key)
    if _is_section(value):
      names = {c: n for n, c in field.metadata.get("classes", {}).items()}
      name = {"name": names[type(value)]} if names else {}
      result[key] = {**name, **to_dict(value)}
    else:
      result[key] = value
  return result


def replace(
  config: T,
  changes: Mapping[str, Any],
  read: Callable[[Any, Any], Any] = lambda value, old: value,
) -> T:
  """Returns a config with changes such as `{"data.batch_size": 64}`.

  Args:
    config: a parsed config.
    changes: new values by key.
    read: maps a value of `changes` and the old value to the new value.

  Raises:
    ValueError: if a key is unknown or a value out of range.
    TypeError: if a value has the wrong type.
  """
  values = to_dict(config)
  for key, value in changes.items():
    *sections, name = key.split(".")
    node: Any = values
    for part in sections:
      node = _child(node, part, key)
    node[name] = read(value, _child(node, name, key))
  for section, field in _fields(type(config)).items():
    if classes := field.metadata.get("classes"):
      _check_same_keys(section, to_dict(config), values, classes)
  return parse(values, type(config))


def _child(node: Any, part: str, key: str) -> Any:
  if isinstance(node, dict) and part in node:
    return node[part]
  hint = f"; {suggest(part, node)}" if isinstance(node, dict) else ""
  raise ValueError(f"config.{key} is not a key of the config{hint}")


def _check_same_keys(
  section: str,
  old: Mapping[str, Any],
  new: Mapping[str, Any],
  classes: Mapping[str, type],
) -> None:
  """Raises ValueError if a new `name` does not have the keys of its section."""
  name = str(new[section]["name"])
  if name not in classes or name == old[section]["name"]:
    return
  if unknown := new[section].keys() - {"name", *_fields(classes[name])}:
    raise ValueError(
      f"{section}.name={name!r}: the config's section {section!r} is that of "
      f"{old[section]['name']!r}, with keys that {name!r} does not have "
      f"({', '.join(sorted(unknown))}); write its section in the config file"
    )


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
  given = _with_preset(name, given, cls)
  hints = typing.get_type_hints(cls)
  bounds = typing.get_type_hints(cls, include_extras=True)
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
      check_value(full, values[key], bounds[key])
    elif field.default is dataclasses.MISSING:
      if not dataclasses.is_dataclass(hints[key]):
        raise ValueError(f"{full} is missing from the config")
      values[key] = _section(full, {}, hints[key])
  return cls(**values)


def _with_preset(
  name: str, given: Mapping[str, Any], cls: Any
) -> Mapping[str, Any]:
  """Replaces the key `preset` by the keys of that preset; explicit keys win."""
  presets = getattr(cls, "presets", None)
  if presets is None or "preset" not in given:
    return given
  preset = str(given["preset"])
  if preset not in presets:
    raise ValueError(f"{name}.preset={preset!r}: {suggest(preset, presets)}")
  explicit = {key: value for key, value in given.items() if key != "preset"}
  return {**presets[preset], **explicit}


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
