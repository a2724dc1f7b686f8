import itertools

import numpy as np
import pytest
from diagnostics.cases import features, unit

from jssl.diagnostics import pairs, splits
from jssl.mesh import make_mesh


@pytest.mark.parametrize("devices", [1, 8])
def test_info_nce_splits_as_in_the_paper(devices, monkeypatch):
  monkeypatch.setattr(pairs, "TILE", 16)
  x = unit(features(n=11)).astype(np.float32)
  mesh = make_mesh(4, 2) if devices == 8 else None
  split = splits.info_nce_split(x, mesh=mesh)
  wide = x.astype(np.float64)
  align = np.mean(np.sum((wide[:, 0] - wide[:, 1]) ** 2, 1))
  second, loss = [], []
  for i, j in itertools.permutations(range(11), 2):
    positive = np.exp(wide[i, 0] @ wide[i, 1])
    negative = np.exp(wide[i, 0] @ wide[j, 1])
    second.append(np.log(positive + negative))
    loss.append(-np.log(positive / (positive + negative)))
  np.testing.assert_allclose(split, [align / 2 - 1, np.mean(second)], rtol=1e-5)
  np.testing.assert_allclose(sum(split), np.mean(loss), rtol=1e-5)


def test_info_nce_of_collapsed_features_and_of_those_without_unit_norm():
  collapsed = np.zeros((11, 2, 4), np.float32)
  collapsed[..., 2] = 1
  np.testing.assert_allclose(
    splits.info_nce_split(collapsed), [-1, 1 + np.log(2)], rtol=1e-6
  )
  collapsed[[2, 5], 1] *= 1.1
  with pytest.raises(ValueError, match="norm 1, but 2 of 11"):
    splits.info_nce_split(collapsed)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_barlow_splits_as_in_the_paper(offset):
  x = features(n=11) + np.float32(offset)
  x[..., 1] = 3 * x[..., 0] - 1
  split = splits.barlow_split(x)
  wide = x.astype(np.float64)
  wide = (wide - wide.mean(0)) / wide.std(0)
  f = wide[:, 0].T @ wide[:, 1] / 11
  np.testing.assert_allclose(
    split,
    [np.sum((1 - np.diag(f)) ** 2), np.sum((f - np.eye(4)) ** 2)],
    rtol=1e-4,
  )


@pytest.mark.parametrize("noise", [0.05, 0.5, 5.0])
def test_barlow_bounds_the_alignment_loss(noise):
  x = features(n=11, noise=noise)
  wide = x.astype(np.float64)
  wide = (wide - wide.mean(0)) / wide.std(0)
  align = np.mean(np.sum((wide[:, 0] - wide[:, 1]) ** 2, 1))
  split = splits.barlow_split(x)
  assert align <= 2 * np.sqrt(4 * split.alignment) * (1 + 1e-5)


def test_barlow_of_collapsed_features():
  x = np.full((11, 2, 4), 0.1, np.float32)
  assert splits.barlow_split(x) == (4.0, 4.0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  "measure",
  [
    splits.info_nce_split,
    splits.barlow_split,
  ],
)
def test_features_of_views_are_checked(measure):
  x = unit(features(n=11)).astype(np.float32)
  for wrong in (x[:, 0], x[:, :1], x[:0]):
    with pytest.raises(ValueError, match=r"features (must be|has)"):
      measure(wrong)
  with pytest.raises(TypeError, match="floating"):
    measure(x.astype(np.int32))
  x[[3, 7], 0, 1] = np.nan
  with pytest.raises(ValueError, match="features: 2 of 11 rows"):
    measure(x)
