import numpy as np
import pytest

from jssl.bench import diagnostics


@pytest.mark.parametrize("deviations", [np.ones(24), diagnostics.power_law(24)])
def test_both_find_the_spectrum_that_was_drawn(deviations):
  features = diagnostics.draw(4000, deviations)
  assert features.dtype == np.float32
  found = diagnostics.full(features) / np.sqrt(len(features))
  np.testing.assert_allclose(found, deviations, rtol=0.1)
  compared = diagnostics.compare(features, rounds=2)
  assert compared.auc_gap < 1e-6
  assert compared.values_gap < 1e-6
  assert min(compared[:2]) > 0


def test_a_power_law_ends_where_it_should():
  values = diagnostics.power_law(512)
  np.testing.assert_allclose(values[[0, -1]], [1, 1e-6])
  slopes = np.diff(np.log(values)) / np.diff(np.log(np.arange(1, 513)))
  np.testing.assert_allclose(slopes, slopes[0])
