import numpy as np
import pytest
from oracles.probe import SETTINGS

from jssl.config.schema import Probe
from jssl.probe import suite

SMALL = {**SETTINGS, "label_fractions": (0.2,)}


def test_all_probes_in_order(train, test, one_device):
  found = list(suite.fit_all(Probe(**SMALL), train, test, one_device))
  assert [(probe, share) for probe, share, _ in found] == [
    ("linear", 1.0),
    ("knn", 1.0),
    ("mlp", 1.0),
    ("linear", 0.2),
  ]
  for _, _, result in found:
    assert result.test_accuracy.shape == (2,)
    assert np.all(result.test_accuracy > 0.4)


@pytest.mark.parametrize("probe", ["linear", "knn", "mlp"])
def test_one_probe_alone(train, test, one_device, probe):
  settings = Probe(**{**SMALL, "label_fractions": ()}, probes=(probe,))
  found = list(suite.fit_all(settings, train, test, one_device))
  assert [p for p, _, _ in found] == [probe]


def test_what_is_too_large_for_memory_is_fitted_in_minibatches(
  train, test, one_device
):
  settings = {**SMALL, "probes": ("linear",), "label_fractions": (0.5,)}
  large, small = (
    Probe(**settings, memory_limit_gib=limit) for limit in (1.0, 1e-6)
  )
  assert suite.fits_in_memory(large, train, 1.0)
  assert not suite.fits_in_memory(small, train, 0.5)
  for (_, _, full), (_, _, mini) in zip(
    suite.fit_all(large, train, test, one_device),
    suite.fit_all(small, train, test, one_device),
    strict=True,
  ):
    assert set(full.chosen) == {"l2"}
    assert set(mini.chosen) == {"l2", "learning_rate"}
    np.testing.assert_allclose(
      mini.test_accuracy, full.test_accuracy, atol=0.05
    )
