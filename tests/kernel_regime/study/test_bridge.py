"""The bridge: a linear map, trained as any method, reaches the closed form."""

import json

import numpy as np
import pytest

from jssl.config.command_line import read_file
from jssl.config.parse import parse
from jssl.kernel_regime import losses, psd
from jssl.kernel_regime.dense import RBF, median_bandwidth
from jssl.kernel_regime.gram import gram as gram_of
from jssl.kernel_regime.solvers import closed_form
from jssl.kernel_regime.study import bridge
from jssl.kernel_regime.study.config import BASES, Bridge, KernelStudy

IMAGES, COPIES = 20, 3
IDS = np.repeat(np.arange(IMAGES), COPIES)
LOSSES = [losses.Contrastive(), losses.NonContrastive(beta=0.4)]


@pytest.fixture(scope="module")
def kernel():
  """The kernel of the copies, and of other points with them."""
  draw = np.random.default_rng(0)
  centres = draw.normal(size=(IMAGES, 1, 5))
  points = centres + 0.3 * draw.normal(size=(IMAGES, COPIES, 5))
  x = points.reshape(-1, 5).astype(np.float32)
  of = RBF(median_bandwidth(x) / 2)
  other = draw.normal(size=(10, 5)).astype(np.float32)
  return psd.with_jitter(gram_of(of, x), 1e-3), gram_of(of, other, x)


@pytest.mark.parametrize("basis", BASES)
def test_a_basis_has_the_kernel_for_products(kernel, basis):
  k, _ = kernel
  phi = bridge.kernel_features(k, basis)
  np.testing.assert_allclose(phi @ phi.T, k, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize(
  ("basis", "d_out", "steps"),
  [("principal", 6, 300), ("principal", 0, 300), ("root", 6, 1500)],
)
def test_training_reaches_the_closed_form(kernel, loss, basis, d_out, steps):
  """gap <= 1e-3 max(|L*|, ||T||^2), never below 0; and the same function."""
  k, k_other = kernel
  every = IMAGES - loss.shift_invariant
  gaps, trained = bridge.train(
    k,
    loss,
    IDS,
    d_out=d_out or every,
    basis=basis,
    bridge=Bridge(steps),
  )
  assert gaps.shape == (steps + 1,)
  assert gaps[0] > 10 * bridge.TOLERANCE
  assert -1e-9 < gaps[-1] < bridge.TOLERANCE
  # The first is of float32, the last of float64 and one step later.
  np.testing.assert_allclose(*gaps[-2:], rtol=1e-2, atol=2e-5)
  if not d_out:
    m = closed_form(k, loss.top_eigenpairs(IDS, every))
    theirs, ours = ((k_other @ w.T) for w in (m, trained))
    if loss.shift_invariant:
      theirs, ours = theirs - theirs.mean(0), ours - ours.mean(0)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=2e-2)


def test_reached_is_where_it_stays():
  def reached(*gaps):
    comparison = bridge.Comparison("", 1, "root", np.array(gaps), None)
    return comparison.converged_at()

  assert reached(1, 1e-4, 1, 1e-4, 1e-5) == 3
  assert reached(1e-4, 1e-5) == 0
  assert reached(1, 1e-4, 1) is None
  assert reached(1, float("nan")) is None


@pytest.mark.slow
def test_the_study(tmp_path):
  """Small, on the embedded set: what it writes, and how it refuses."""
  config = read_file("configs/kernel_bridge_fashion_mnist.py")
  config.data.update(name="cluttered_digits", image_size_px=32, batch_size=40)
  config.augment.crop_size_px = 32
  config.problem.update(images=12, views=2, test_images=10)
  config.bridge.update(steps=300, d_outs=(0, 4))
  lines = []
  study = parse(config, KernelStudy)
  text, _ = bridge.run(study, tmp_path, command="again", log=lines.append)
  assert (tmp_path / "bridge.md").read_text() == text
  assert "again" in text
  assert "12 images with 2 views" in text
  rows = json.loads((tmp_path / "bridge.json").read_text())
  assert len(rows) == len(lines) == 8
  for row in rows:
    assert len(row["gaps"]) == 301
    assert (row["unseen"] is None) == (row["d_out"] == 4)
    if row["basis"] == "principal":
      assert row["gaps"][-1] < bridge.TOLERANCE
      assert row["unseen"] is None or row["unseen"] < 0.2
  svg = (tmp_path / "bridge.svg").read_text()
  assert svg.startswith("<svg")
  assert "principal basis" in svg
  config.bridge.d_outs = (-1,)
  with pytest.raises(ValueError, match=r"bridge\.d_outs=\(-1,\)"):
    parse(config, KernelStudy)
  config.bridge.update(d_outs=(0,), steps=0)
  with pytest.raises(ValueError, match=r"bridge\.steps=0"):
    parse(config, KernelStudy)
