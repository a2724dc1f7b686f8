import dataclasses

import pytest
from shipped import config, config_dict

from jssl.config.parse import parse, replace, to_dict
from jssl.config.schema import Config


def test_a_parsed_config_survives_its_dict():
  parsed = config("dino_imagenet")
  assert parse(to_dict(parsed), Config) == parsed


def test_replace_reaches_nested_sections():
  given = config()
  changed = replace(
    given, {"objective.projector.out_dim": 5, "seed": 3, "head.l2": 0.5}
  )
  assert changed.objective.projector.out_dim == 5
  assert (changed.seed, changed.head.l2) == (3, 0.5)
  assert given.objective.projector.out_dim != 5
  for key in ("objective.projector.out", "objective.name.x", "nothing", ""):
    with pytest.raises(ValueError, match="is not a key of the config"):
      replace(given, {key: 1})
  with pytest.raises(ValueError, match=r"config\.train\.chunk is not a key"):
    replace(given, {"train.chunk": 2})


def test_a_complete_config_has_every_key_and_the_same_meaning():
  given = config_dict()
  for section in (config().probe, config().data):
    name = type(section).__name__.lower()
    assert {*given[name]} == {f.name for f in dataclasses.fields(section)}
  assert parse(given, Config) == config()
