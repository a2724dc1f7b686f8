import numpy as np
import pytest
from kernel_regime import oracle

from jssl.kernel_regime.convolutional import ConvGP, ConvNTK
from jssl.kernel_regime.dense import MLPNTK, ArcCosine
from jssl.kernel_regime.gram import gram

READOUTS = ("flatten", "mean")


def images(n=2, seed=0, shape=(3, 3, 2)):
  x = np.random.default_rng(seed).normal(size=(n, *shape))
  # Black pixels, of which some 3 x 3 windows hold nothing else.
  x[:, :, :2] *= np.arange(n)[:, None, None, None] > 0
  return x


def test_recursion_equals_loops_over_pairs_of_pixels():
  x, y = images(3), images(2, seed=1)[1:]
  pairs = [[oracle.convolutional(a, b, 2) for b in y] for a in x]
  reads = {"flatten": lambda s: np.trace(s) / len(s), "mean": np.mean}
  for readout, read in reads.items():
    gp = [[read(sigma) for sigma, _ in row] for row in pairs]
    ntk = [[read(sigma + theta) for sigma, theta in row] for row in pairs]
    np.testing.assert_allclose(gram(ConvGP(2, readout), x, y), gp, atol=1e-12)
    np.testing.assert_allclose(gram(ConvNTK(2, readout), x, y), ntk, atol=1e-12)


@pytest.mark.parametrize("readout", READOUTS)
def test_one_pixel_is_a_network_without_convolutions(readout):
  x = np.random.default_rng(0).normal(size=(4, 6))
  pixel = x[:, None, None]
  gp, ntk = ConvGP(2, readout, 1), ConvNTK(2, readout, 1)
  np.testing.assert_allclose(
    gram(gp, pixel), gram(ArcCosine(1, 2), x), rtol=1e-12
  )
  np.testing.assert_allclose(
    gram(ntk, pixel), gram(MLPNTK(2), x), rtol=1e-12, atol=1e-12
  )


def test_the_mean_does_not_see_a_shift_far_from_the_border():
  x = np.zeros((2, 12, 5, 1))
  spot = np.random.default_rng(0).normal(size=(2, 2, 1))
  x[0, 4:6, 2:4], x[1, 7:9, 2:4] = spot, spot
  k = gram(ConvGP(2, "mean"), x)
  np.testing.assert_allclose(k[0, 1], k[0, 0], rtol=1e-12)
  flat = gram(ConvGP(2), x)
  assert flat[0, 1] < 0.5 * flat[0, 0]


def patches(x):
  """Returns the 3 x 3 windows of images, [n, h, w, 9 c]."""
  h, w = x.shape[1:3]
  padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
  windows = [
    padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)
  ]
  return np.concatenate(windows, axis=3)


def unpatched(windows, c):
  """The adjoint of `patches`."""
  n, h, w, _ = windows.shape
  padded = np.zeros((n, h + 2, w + 2, c))
  for k in range(9):
    i, j = divmod(k, 3)
    padded[:, i : i + h, j : j + w] += windows[..., k * c : (k + 1) * c]
  return padded[:, 1:-1, 1:-1]


def inner(x):
  return x.reshape(len(x), -1) @ x.reshape(len(x), -1).T


def network_kernels(rng, x, m):
  """Kernels of one random network of two convolutions, by its gradients."""
  n, h, w, c = x.shape
  weights = [rng.normal(size=(9 * c, m)), rng.normal(size=(9 * m, m))]
  scales = [1 / np.sqrt(9 * c), np.sqrt(2 / (9 * m))]
  windows, active, units = [], [], x
  for weight, scale in zip(weights, scales, strict=True):
    windows.append(scale * patches(units))
    units = windows[-1] @ weight
    active.append(units > 0)
    units = np.maximum(units, 0)
  units = np.sqrt(2 / m) * units
  readouts = {
    "flatten": (units / np.sqrt(h * w), rng.normal(size=(h, w, m))),
    "mean": (units.mean((1, 2)), rng.normal(size=(1, 1, m)) / (h * w)),
  }
  found = {}
  for name, (features, back) in readouts.items():
    ntk = inner(features)
    if name == "flatten":
      back = back / np.sqrt(h * w)
    back = np.sqrt(2 / m) * np.broadcast_to(back, (n, h, w, m))
    for layer in (1, 0):
      back = back * active[layer]
      ntk = ntk + inner(np.einsum("nhwi,nhwo->nio", windows[layer], back))
      if layer:
        back = unpatched(scales[1] * back @ weights[1].T, m)
    found[name] = np.stack([inner(features), ntk])
  return found


def test_wide_random_networks_agree():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 3, 3, 2))
  drawn = [network_kernels(rng, x, 64) for _ in range(60)]
  for readout in READOUTS:
    gp, ntk = np.mean([kernels[readout] for kernels in drawn], axis=0)
    np.testing.assert_allclose(
      gram(ConvGP(2, readout), x), gp, atol=0.05 * np.max(gp)
    )
    np.testing.assert_allclose(
      gram(ConvNTK(2, readout), x), ntk, atol=0.05 * np.max(ntk)
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("make", "key"),
  [
    (lambda: ConvGP(0), "kernel.depth=0"),
    (lambda: ConvNTK(1, "max"), "kernel.readout='max'"),
    (lambda: ConvGP(filter_px=2), "kernel.filter_px=2"),
    (lambda: ConvGP()(np.ones((2, 3)), np.ones((2, 3))), "compares images"),
    (lambda: ConvGP()(images(), images(shape=(4, 4, 2))), "of one size"),
  ],
)
def test_bad_values_are_told_with_the_key(make, key):
  with pytest.raises(ValueError, match=key):
    make()
