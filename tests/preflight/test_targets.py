"""Accelerators by name; compiling for those of Google is in test_preflight."""

import os
import subprocess
import sys

import pytest

from jssl.preflight import targets


@pytest.mark.parametrize(
  ("name", "kind", "shape"),
  [
    ("v5e:16x16", "v5e", (16, 16)),
    ("v5p:4x4x4", "v5p", (4, 4, 4)),
    ("h100:8", "h100", (1, 8)),
    ("h200:2x8", "h200", (2, 8)),
    ("cpu:8", "cpu", (8,)),
  ],
)
def test_a_name_says_chips_and_shape(name, kind, shape):
  found = targets.target(name)
  assert (found.name, found.kind, found.shape) == (name, kind, shape)
  assert found.is_tpu == name.startswith("v5")
  assert (found.chip is None) == (kind == "cpu")


@pytest.mark.parametrize(
  "name", ["v99:2x4", "v5e", "v5e:", "v5e:0x4", "v5e:2by4", "cpu", "", "tpu:8"]
)
def test_unknown_names_are_told_the_known_ones(name):
  with pytest.raises(
    ValueError, match=r"unknown target.*v5e.*tpu7x.*h100.*cpu"
  ):
    targets.target(name)


@pytest.mark.parametrize("name", ["v5e:8", "cpu:2x4", "h100:1x2x3"])
def test_a_shape_of_other_dimensions_is_told(name):
  with pytest.raises(ValueError, match=r"expected .* dimensions after"):
    targets.target(name)


def test_nodes_are_of_gpus():
  assert targets.target("h100:2x8").nodes == 2
  for one in ("h100:8", "2xv5e:2x4", "cpu:2"):
    assert targets.target(one).nodes == 1
  # 400 Gbit/s for each GPU; of what joins TPU slices nothing is assumed.
  assert targets.CHIPS["h200"].network_rate == 50e9
  assert targets.CHIPS["v5e"].network_rate is None


def test_slices_are_of_tpus():
  found = targets.target("2xv5e:2x4")
  assert (found.name, found.slices, found.shape) == ("2xv5e:2x4", 2, (2, 4))
  with pytest.raises(ValueError, match="got 2"):
    targets.target("2xh100:8")
  with pytest.raises(ValueError, match="at least 1 slice"):
    targets.target("0xv5e:2x4")


def test_a_missing_compiler_names_its_extra(monkeypatch):
  monkeypatch.setattr(targets, "find_spec", lambda module: None)
  with pytest.raises(ValueError, match=r"libtpu.*jssl\[preflight\]"):
    targets.target("v5e:2x4").devices()
  with pytest.raises(ValueError, match=r"jax_cuda12_plugin.*jssl\[cuda12\]"):
    targets.target("h100:8").devices()


def test_cpu_devices_are_those_of_the_process():
  assert len(targets.target("cpu:4").devices()) == 4
  with pytest.raises(ValueError, match=r"cpu:99: this process has 8"):
    targets.target("cpu:99").devices()


def test_a_process_is_readied_for_the_most_cpu_devices():
  """Of all targets that it is going to compile for."""
  program = """
from jssl.preflight import targets
two, four = targets.target("cpu:2"), targets.target("cpu:4")
two.prepare(four, targets.target("v5e:2x2"))
print(len(two.devices()), len(four.devices()))
"""
  environ = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  done = subprocess.run(
    [sys.executable, "-c", program],
    capture_output=True,
    text=True,
    check=False,
    env=environ,
  )
  assert done.stdout == "2 4\n", done.stderr
