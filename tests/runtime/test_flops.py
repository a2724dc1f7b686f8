"""Peak FLOP/s of devices; FLOPs of programs are tested in preflight."""

import types

import jax
import pytest

from jssl.runtime import flops
from jssl.runtime.chips import CHIPS


def device(kind, platform="gpu"):
  return types.SimpleNamespace(
    device_kind=kind, platform=platform, process_index=0
  )


def test_known_chips_have_the_rates_of_their_data_sheets():
  assert flops.peak_flops([device("TPU v5 lite")]) == 197e12
  assert flops.peak_flops([device("TPU v5")]) == 459e12
  assert flops.peak_flops([device("NVIDIA H100 80GB HBM3")] * 8) == 989e12
  # Two JAX devices share a chip.
  assert flops.peak_flops([device("TPU7x")]) == 2307e12 / 2


def test_no_two_chips_share_a_kind():
  kinds = [kind for chip in CHIPS.values() for kind in chip.kinds]
  assert len(kinds) == len(set(kinds))


def test_only_cpu_devices_share_the_measured_rate(monkeypatch):
  assert flops.peak_flops(jax.devices()[:1]) > 1e8
  monkeypatch.setattr(flops, "_measured_flops", lambda dtype: 8e12)
  assert flops.peak_flops([device("cpu", "cpu")] * 4) == 2e12
  assert flops.peak_flops([device("NVIDIA L4")] * 4) == 8e12


@pytest.mark.parametrize(("name", "products"), [("fwd", 2), ("bwd", 5)])
def test_attention_of_cudnn_counts(name, products):
  """JAX traces it with a cuDNN library only, so the equation is made here."""
  array = types.SimpleNamespace(aval=jax.ShapeDtypeStruct((4, 50, 2, 64), "f2"))
  primitive = types.SimpleNamespace(
    name=f"dot_product_attention_{name}_wrapper"
  )
  equation = types.SimpleNamespace(primitive=primitive, invars=[array])
  jaxpr = types.SimpleNamespace(eqns=[equation])
  product = 2 * 4 * 2 * 50 * 50 * 64
  assert flops.product_flops(jaxpr, 2) == products * product // 2
