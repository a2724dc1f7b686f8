import numpy as np
import pytest

from jssl.bench import diagnostics


@pytest.mark.parametrize("deviations", [np.ones(24), diagnostics.power_law(24)])
def test_both_find_the_spectrum_that_was_drawn(deviations):
  features = diagnostics.draw(4000, deviations)
  assert features.dtype == np.float32
  found = diagnostics.full_svd(features) / np.sqrt(len(features))
  np.testing.assert_allclose(found, deviations, rtol=0.1)
  exact, streaming = diagnostics.compare(features, rounds=2)
  assert exact["AUC error"] == 0
  assert streaming["AUC error"] < 1e-6
  assert streaming["s_i / s_1 error"] < 1e-6
  assert streaming["s"] > 0


def test_the_power_law_ends_at_1e_6():
  values = diagnostics.power_law(512)
  np.testing.assert_allclose(values[[0, -1]], [1, 1e-6])
  slopes = np.diff(np.log(values)) / np.diff(np.log(np.arange(1, 513)))
  np.testing.assert_allclose(slopes, slopes[0])
