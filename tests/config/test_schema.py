import dataclasses

import pytest
from shipped import config_dict

from jssl.config.parse import parse
from jssl.config.schema import Config, Probe
from jssl.kernel_regime import ArcCosine


def test_an_empty_section_is_the_defaults():
  found = parse(config_dict(probe={}), Config).probe
  assert found == Probe()
  assert found.seeds >= 3
  assert len(found.linear_l2_values) >= 8


def test_json_lists_become_tuples():
  found = parse(config_dict(probe={"knn_neighbours": [3, 4]}), Config).probe
  assert found.knn_neighbours == (3, 4)


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"probes": ("linear", "svm")}, r"probe.probes\[1\]='svm'.*linear, mlp"),
    ({"baselines": ("pixel",)}, r"probe.baselines\[0\]='pixel'.*pixels"),
    ({"validation_fraction": 1.0}, "probe.validation_fraction=1.0"),
    ({"label_fractions": (0.1, 1.0)}, "probe.label_fractions"),
    ({"seeds": 0}, "probe.seeds=0 must be positive"),
    ({"linear_l2_values": (1.0, 0.0)}, "probe.linear_l2_values"),
    ({"knn_neighbours": ()}, "probe.knn_neighbours"),
    ({"knn_temperatures": (0.1, -1.0)}, "probe.knn_temperatures"),
    ({"pixel_dims": -1}, "probe.pixel_dims"),
  ],
)
def test_what_is_out_of_range_is_named(changed, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(Probe(), **changed)


def test_what_may_be_zero_may_be_zero():
  Probe(pixel_dims=0, minibatch_min_steps=0, label_fractions=())


def test_a_number_that_is_no_choice_is_told_the_choices():
  @dataclasses.dataclass(frozen=True)
  class Kernels:
    kernel: ArcCosine

  with pytest.raises(ValueError, match=r"kernel\.degree=5.*one of 0, 1"):
    parse({"kernel": {"degree": 5}}, Kernels)
