"""Values that a key of a config cannot have, for every key."""

import dataclasses
import math

import jax
import pytest
from ml_collections import ConfigDict
from shipped import Shapes, config

from jssl import rng
from jssl.config.build import build
from jssl.config.parse import replace, to_dict
from jssl.config.schema import Data
from jssl.objectives import OBJECTIVES

SMALL = {
  "data.batch_size": 128,
  "augment.crop_size_px": 16,
  "model.width": 16,
  "model.depth": 1,
  # For one small crop or more.
  "augment.small_crop_size_px": 8,
}
NUMBERS = (math.nan, math.inf, -math.inf, -1, -1.0, 0, 0.0)
OTHERS = ("text", None, True, {}, (1, "text"))


# Each takes as long as five others, because a transformer is traced.
SLOW = ("dinov2", "ibot", "ijepa", "simmim")


def of_method(name):
  """A small config of a method."""
  fields = {field.name for field in dataclasses.fields(OBJECTIVES[name])}
  sizes = {
    "prototypes": {"number": 8},
    "queue_size": 256,
    "num_targets": 1,
    "min_context": 1,
    "target_area_min": 0.3,
    "target_area_max": 0.5,
    "context_area_min": 0.9,
  }
  own = {key: value for key, value in sizes.items() if key in fields}
  return config(**SMALL, objective={"name": name, **own})


def leaves(values, prefix=""):
  """Returns the values of a nested dict by dotted key."""
  found = {}
  for key, value in values.items():
    path = f"{prefix}{key}"
    if isinstance(value, dict):
      found |= leaves(value, f"{path}.")
    else:
      found[path] = value
  return found


def wrong_values(value):
  """Values to try in place of one; of a tuple, also as its element."""
  if isinstance(value, tuple):
    yield from ((*value, x) for x in (*NUMBERS, *OTHERS))
    yield ()
  yield from (*NUMBERS, *OTHERS)


def attempt(function):
  """Returns the result of a function, or None and the text of its refusal."""
  try:
    return function(), ""
  except (ValueError, TypeError) as error:
    return None, f"{error}"


def build_small(made):
  return build(made, source=Shapes(made.data), devices=jax.devices()[:1])


def floats_of(made):
  for leaf in leaves(to_dict(made)).values():
    values = leaf if isinstance(leaf, tuple) else (leaf,)
    yield from (value for value in values if isinstance(value, float))


@pytest.mark.filterwarnings("ignore:objective.marginal_weight")
@pytest.mark.parametrize(
  "method",
  [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in (*OBJECTIVES, None)
  ],
)
def test_a_value_is_refused_by_name_or_builds(method):
  """Keys of one method, or of all other sections."""
  base = of_method(method or "simclr")
  # 0 and 0.0 give the same config, as does the value of the base.
  built = {base}
  for key, value in leaves(to_dict(base)).items():
    if key.startswith("objective.") != bool(method):
      continue
    for wrong in wrong_values(value):
      made, refusal = attempt(lambda k=key, w=wrong: replace(base, {k: w}))
      # These sections are not used before the run starts.
      unused = key.startswith(("probe.", "log.", "checkpoint.", "init_from."))
      if made and not unused and made not in built:
        built.add(made)
        assert all(map(math.isfinite, floats_of(made))), (key, wrong)
        _, refusal = attempt(lambda made=made: build_small(made))
      assert not refusal or key in refusal, (key, wrong, refusal)


def test_a_value_of_a_resnet_is_refused_by_name_or_parses():
  base = config(
    model={"name": "resnet", "depth": 18, "small_images": True, "width": 8}
  )
  for key, value in leaves(to_dict(base)).items():
    for wrong in wrong_values(value) if key.startswith("model.") else ():
      _, refusal = attempt(lambda k=key, w=wrong: replace(base, {k: w}))
      assert not refusal or key in refusal, (key, wrong, refusal)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("data.workers", -1),
    ("data.name", ""),
    ("data.prefetch_batches", 0),
    ("model.depth", 0),
    ("model.depth", 3.0),
    ("model.std", (0.0,)),
    ("model.mean", (math.nan,)),
    ("model.dtype", "float33"),
    ("augment.brightness", math.inf),
    ("augment.crop_ratio_max", math.inf),
    ("optim.end_fraction", -1.0),
    ("optim.learning_rate", math.nan),
    ("optim.learning_rate", math.inf),
    ("optim.trust_coefficient", 0.0),
    ("head.l2", math.nan),
    ("checkpoint.keep_evenly", -1),
    ("checkpoint.keep_last", 1),
    ("init_from.step", -2),
    ("init_from.workdir", "~/W"),
    ("data.data_dir", "~/data"),
    ("probe.memory_limit_gib", math.nan),
    ("probe.linear_l2_values", (math.inf,)),
    ("seed", -1),
    ("seed", 2**32),
    ("seed", 2**63),
  ],
)
def test_senseless_values_are_refused(key, value):
  with pytest.raises((ValueError, TypeError), match=key):
    replace(config(), {key: value})


def test_every_seed_has_a_key_of_its_own():
  seeds = [0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
  keys = [
    tuple(jax.random.key_data(rng.stream(rng.root(seed), "x")).tolist())
    for seed in seeds
    if replace(config(), {"seed": seed}).seed == seed
  ]
  assert len(set(keys)) == len(seeds)
  for seed in (-1, 2**32, 2**63):
    with pytest.raises(ValueError, match=f"seed={seed} must be in"):
      rng.root(seed)


@pytest.mark.parametrize(
  "name", [name for name, cls in OBJECTIVES.items() if cls.multi_crop]
)
def test_one_view_of_an_image_is_refused(name):
  base = of_method(name)

  def built(**changes):
    return build_small(replace(base, changes))

  one = {"objective.num_views": 1}
  with pytest.raises(ValueError, match=r"objective\.num_views=1"):
    built(**one)
  crops = {"augment.num_small": 1}
  if name == "dissl":  # Compares two large views of the teacher.
    with pytest.raises(ValueError, match=r"objective\.num_views=1"):
      built(**one, **crops)
  else:
    with pytest.raises(ValueError, match=r"augment\.num_small=0"):
      built(**one)
    built(**one, **crops)


@pytest.mark.parametrize(
  ("split", "test_split"),
  [
    ("train", "train"),
    ("train", "train[90%:]"),
    ("train[:90%]", "train"),
    ("train+valid", "test+valid"),
    ("train", "all"),
  ],
)
def test_a_test_split_of_training_images_is_refused(split, test_split):
  match = "data.test_split=.*data.split=.*not a test accuracy"
  with pytest.raises(ValueError, match=match):
    replace(config(), {"data.split": split, "data.test_split": test_split})


def test_other_test_splits_are_taken():
  for split, test_split in (
    ("train", "test"),
    ("train[:90%]", "train[90%:]"),
    ("train", "validation+test"),
    ("train2", "train"),
  ):
    Data("x", 1, 1, split=split, test_split=test_split)


def test_no_key_is_a_method_of_a_config_dict():
  """`config.head.update = "x"` would not set a key of that name."""
  for made in (
    *map(of_method, OBJECTIVES),
    config(model={"name": "resnet", "depth": 18, "small_images": True}),
  ):
    for key in leaves(to_dict(made)):
      for part in key.split("."):
        assert not hasattr(ConfigDict, part), key
