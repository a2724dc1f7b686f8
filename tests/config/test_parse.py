import dataclasses

import pytest
from shipped import config, config_dict

from jssl.config.parse import parse, replace, to_dict
from jssl.config.schema import Config
from jssl.models import ViT


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


def test_a_preset_fills_the_keys_that_are_not_set():
  given = config_dict("dino_imagenet").to_dict()
  model = {"name": "vit", "preset": "vit_s14_reg4", "depth": 2}
  parsed = parse({**given, "model": model}, Config)
  expected = ViT(14, 384, depth=2, num_heads=6, num_registers=4)
  assert parsed.model == expected
  assert "preset" not in to_dict(parsed)["model"]
  assert parse(to_dict(parsed), Config) == parsed
  for name, match in [
    ("vit", r"model.preset='vit_s15': did you mean 'vit_s1[46]'\?"),
    ("resnet", r"model.preset is not a key"),
  ]:
    model = {"name": name, "preset": "vit_s15"}
    with pytest.raises(ValueError, match=match):
      parse({**given, "model": model}, Config)


def test_a_complete_config_has_every_key_and_the_same_meaning():
  given = config_dict()
  for section in (config().probe, config().data):
    name = type(section).__name__.lower()
    assert {*given[name]} == {f.name for f in dataclasses.fields(section)}
  assert parse(given, Config) == config()
