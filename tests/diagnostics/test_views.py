import numpy as np
import pytest
from diagnostics.cases import labelled, rows_of

from jssl import diagnostics

N, V, D = 45, 3, 6


@pytest.mark.parametrize("normalise", [True, False])
def test_alignment_is_the_mean_over_pairs_of_views(mesh, normalise):
  views, _ = labelled()
  squares = []
  for image in views:
    x = rows_of(image, normalise)
    squares += [
      np.sum((x[a] - x[b]) ** 2) for a in range(V) for b in range(V) if a != b
    ]
  found = diagnostics.alignment(views, normalise=normalise)
  assert isinstance(found, float)
  np.testing.assert_allclose(found, np.mean(squares), rtol=1e-6)


def test_alignment_of_opposite_and_of_far_away_views():
  views, _ = labelled()
  opposite = views * np.array([1, -1, 1], np.float32)[:, None]
  opposite[:, 2] = 0
  # A zero row has distance 1 to all unit vectors.
  opposite[:, 1] = -opposite[:, 0]
  np.testing.assert_allclose(
    diagnostics.alignment(opposite), (4 + 1 + 1) / 3, rtol=1e-6
  )
  # Squares overflow, or underflow for small rows, in float32.
  for scale in (np.float32(1e25), np.float32(1e-25)):
    np.testing.assert_allclose(
      diagnostics.alignment(views * scale),
      diagnostics.alignment(views),
      rtol=1e-5,
    )


@pytest.mark.parametrize("normalise", [True, False])
def test_uniformity_is_the_log_of_the_mean_potential(mesh, normalise):
  x = labelled()[0][:, 0]
  wide = rows_of(x, normalise)
  potentials = [
    np.exp(-3 * np.sum((wide[i] - wide[j]) ** 2))
    for i in range(N)
    for j in range(N)
    if i != j
  ]
  found = diagnostics.uniformity(x, t=3, normalise=normalise, mesh=mesh)
  assert isinstance(found, float)
  np.testing.assert_allclose(found, np.log(np.mean(potentials)), rtol=1e-6)


def test_uniformity_at_collapse_of_orthogonal_and_of_distant_rows():
  ones = np.ones((N, D), np.float32)
  assert abs(diagnostics.uniformity(ones)) < 1e-6
  basis = np.eye(D, dtype=np.float32)
  np.testing.assert_allclose(diagnostics.uniformity(basis), -4, rtol=1e-6)
  # exp(-t |x - y|^2) underflows in float64.
  far = np.float32(100) * basis
  np.testing.assert_allclose(
    diagnostics.uniformity(far, normalise=False), -40_000, rtol=1e-6
  )
  # A large mean does not change distances.
  np.testing.assert_allclose(
    diagnostics.uniformity(basis + 1000, normalise=False), -4, rtol=1e-6
  )


def test_uniformity_of_many_rows_takes_evenly_spaced_ones():
  x = labelled()[0][:, 0]
  chosen = x[[0, 9, 18, 27, 36]]
  found = diagnostics.uniformity(x, max_rows=5)
  assert found == diagnostics.uniformity(chosen)
  assert diagnostics.uniformity(x, max_rows=N) == diagnostics.uniformity(x)


def oracle_lidar(views, delta, epsilon):
  """LiDAR from sums over images and views, in float64."""
  views = views.astype(np.float64)
  n, v, d = views.shape
  mean = sum(views[i, a] for i in range(n) for a in range(v)) / (n * v)
  between, within = np.zeros((d, d)), np.zeros((d, d))
  for i in range(n):
    mu = sum(views[i, a] for a in range(v)) / v
    between += np.outer(mu - mean, mu - mean) / n
    for a in range(v):
      within += np.outer(views[i, a] - mu, views[i, a] - mu) / (n * v)
  values, vectors = np.linalg.eigh(within + delta * np.eye(d))
  root = vectors @ np.diag(values**-0.5) @ vectors.T
  shares = np.abs(np.linalg.eigvalsh(root @ between @ root))
  shares = shares / shares.sum() + epsilon
  return np.exp(-sum(p * np.log(p) for p in shares))


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_lidar_equals_its_oracle(mesh, offset):
  views, _ = labelled(offset=offset)
  for delta, epsilon in ((1e-4, 1e-7), (0.3, 1e-3)):
    found = diagnostics.lidar(views, delta=delta, epsilon=epsilon)
    assert isinstance(found, float)
    np.testing.assert_allclose(
      found, oracle_lidar(views, delta, epsilon), rtol=1e-9
    )


def test_lidar_of_isotropic_of_rank_one_and_of_collapsed_features():
  # Isotropic between and within images.
  signs = np.concatenate([np.eye(D), -np.eye(D)])
  views = signs[:, None] + 0.1 * signs[None]
  np.testing.assert_allclose(diagnostics.lidar(views), D, rtol=1e-4)
  # Directions in which only views differ do not count.
  rng = np.random.default_rng(0)
  views = 0.1 * np.stack([noise := rng.normal(size=(N, D)), -noise], axis=1)
  views[:, :, 0] += rng.normal(size=(N, 1))
  np.testing.assert_allclose(diagnostics.lidar(views), 1, rtol=1e-4)
  constant = np.full((N, V, D), 1 / 3, np.float32)
  np.testing.assert_allclose(diagnostics.lidar(constant), 1, rtol=1e-4)


def test_a_large_mean_does_not_cancel():
  views = labelled()[0] * 0.01
  for measure in (
    lambda x: diagnostics.alignment(x, normalise=False),
    lambda x: diagnostics.uniformity(1000 * x[:, 0], normalise=False),
    lambda x: diagnostics.lidar(x, delta=1e-8),
    lambda x: diagnostics.barlow_split(x[:, :2]),
    lambda x: diagnostics.second_moment(x[:, 0]).std,
    diagnostics.conditional_entropy,
  ):
    # Subtracting 10 again: both features have the same rounding.
    far = views + np.float32(10)
    near = far.astype(np.float64) - 10
    np.testing.assert_allclose(measure(far), measure(near), rtol=0.02)


def test_memory_mapped_and_half_precision_features(tmp_path):
  views, _ = labelled()
  half = views.astype(np.float16)
  np.save(tmp_path / "x.npy", half)
  mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
  wide = half.astype(np.float32)
  assert diagnostics.alignment(mapped) == diagnostics.alignment(wide)
  assert diagnostics.lidar(mapped) == diagnostics.lidar(wide)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("measure", [diagnostics.alignment, diagnostics.lidar])
def test_bad_views_are_errors(measure):
  views, _ = labelled()
  with pytest.raises(ValueError, match=r"views must be \[n, v, d\], not \(4"):
    measure(views[:4, 0])
  with pytest.raises(ValueError, match="views has 1 views of each image"):
    measure(views[:, :1])
  with pytest.raises(ValueError, match="views has 0 rows"):
    measure(views[:0])
  with pytest.raises(TypeError, match="views must be floating, not int64"):
    measure(np.zeros((4, 2, 3), int))
  views[[3, 5], 1, 2] = np.nan, np.inf
  views[7, 0, 0] = -np.inf
  with pytest.raises(ValueError, match="views: 3 of 45 rows"):
    measure(views)


def test_views_that_are_copies_and_bad_constants_are_errors():
  views, _ = labelled()
  copies = np.repeat(views[:, :1], V, axis=1)
  with pytest.raises(ValueError, match="all 3 views of each of 45 images"):
    diagnostics.lidar(copies)
  with pytest.raises(ValueError, match="delta must be positive, not 0"):
    diagnostics.lidar(views, delta=0)
  with pytest.raises(ValueError, match="t must be positive, not -1"):
    diagnostics.uniformity(views[:, 0], t=-1)
  with pytest.raises(ValueError, match="max_rows must be at least 2"):
    diagnostics.uniformity(views[:, 0], max_rows=1)
  with pytest.raises(ValueError, match="features has 1 rows"):
    diagnostics.uniformity(views[:1, 0])
  with pytest.raises(ValueError, match="features: 1 of 45 rows"):
    diagnostics.uniformity(
      np.where(views == views[3, 0, 1], np.inf, views)[:, 0]
    )
