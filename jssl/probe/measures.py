"""All diagnostics of one matrix of features.

Spectra are of all training images, other measures of views of a sample.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jssl import diagnostics
from jssl.diagnostics import BoundTerms, Matrix
from jssl.probe.sample import NOT_MEASURED, PixelViews, Sample

# Distances of unit vectors, up to the diameter of the sphere.
_EPSILONS = np.linspace(0, 2, 41)
# Meaningless if all views of an image are identical.
_COMPARE_VIEWS = {
  *("lidar", "alignment", "info_nce", "barlow", "lipschitz", "divergence"),
  *("image_entropy_given_features", "linear_predictability"),
}


def measure(
  moment: Callable[[], diagnostics.SecondMoment],
  test: Matrix,
  test_labels: Int[np.ndarray, "m"],
  views: Float[np.ndarray, "n v d"],
  sample: Sample,
  pixels: PixelViews,
) -> dict[str, dict]:
  """Measures features.

  Returns:
    "values", "curves" and "not_measured" (reasons), each by name.
  """
  mesh, labels = sample.mesh, sample.labels
  n, v, dim = views.shape
  half = v // 2
  unit = diagnostics.unit_rows(views).astype(np.float32)
  values: dict[str, Any] = {}
  curves: dict[str, list[float]] = {}
  not_measured: dict[str, str] = {}

  @functools.cache
  def spectrum() -> Float[np.ndarray, "d"]:
    return diagnostics.values_of(moment())

  @functools.cache
  def means() -> diagnostics.ClassMeans:
    return diagnostics.class_means(
      unit.reshape(n * v, dim),
      np.repeat(labels, v),
      sample.num_classes,
    )

  @functools.cache
  def divergence() -> Float[np.ndarray, "t"]:
    # Weighted, because R_eps is of the set and the sample is balanced.
    return diagnostics.divergence_curve(unit, _EPSILONS, weights=sample.weights)

  def bound() -> BoundTerms:
    if pixels.curve is None:
      raise ValueError(pixels.no_curve)
    if "lipschitz" not in values:
      raise ValueError(not_measured["lipschitz"])
    shares = np.bincount(labels, sample.weights)
    return diagnostics.tightest_bound(
      means().seen,
      pixels.curve,
      _EPSILONS,
      divergence(),
      lipschitz=values["lipschitz"],
      radius=1.0,
      min_share=float(shares[shares > 0].min()),
    )

  measures: dict[str, Callable[[], Any]] = {
    "singular_values": spectrum,
    "deviation": lambda: np.sort(moment().std)[::-1],
    "epsilon": lambda: _EPSILONS,
    "divergence": divergence,
    "collapse_auc": lambda: diagnostics.collapse_auc(spectrum()),
    "rank_me": lambda: diagnostics.rank_me(
      diagnostics.values_of(moment(), centre=False)
    ),
    "alpha_req": lambda: diagnostics.alpha_req(spectrum()),
    "stable_rank": lambda: diagnostics.stable_rank(spectrum()),
    "lidar": lambda: diagnostics.lidar(views),
    "alignment": lambda: diagnostics.alignment(views),
    "uniformity": lambda: diagnostics.uniformity(views[:, 0], mesh=mesh),
    "info_nce": lambda: diagnostics.info_nce_split(unit[:, :2], mesh=mesh),
    "barlow": lambda: diagnostics.barlow_split(views[:, :2]),
    "centres": lambda: diagnostics.centre_divergence(means()),
    "centre_shrinkage": lambda: diagnostics.centre_shrinkage(means()),
    "class_simplex": lambda: diagnostics.simplex_distance(means().seen),
    "nearest_mean_error": lambda: diagnostics.nearest_mean_error(
      test, test_labels, means()
    ),
    # The maximal invariant M(x) is the image that a view comes from.
    "simplex": lambda: diagnostics.simplex_distance(views.mean(1)),
    "image_entropy": lambda: diagnostics.maximal_invariant_entropy(n),
    "image_entropy_given_features": lambda: diagnostics.conditional_entropy(
      views, mesh=mesh
    ),
    "linear_predictability": lambda: diagnostics.linear_predictability(
      views[:, :half], views[:, half:], mesh=mesh
    ),
    "lipschitz": lambda: diagnostics.lipschitz_at_least(pixels.pixels, unit),
    "bound": bound,
  }
  for name, function in measures.items():
    try:
      if pixels.identical and name in _COMPARE_VIEWS:
        raise ValueError(pixels.identical)
      result = function()
    except NOT_MEASURED as error:
      not_measured[name] = str(error)
      continue
    if isinstance(result, np.ndarray) and result.ndim:
      curves[name] = result.tolist()
    elif hasattr(result, "_asdict"):  # A tuple of several numbers.
      values |= {f"{name}/{k}": x for k, x in result._asdict().items()}
    else:
      values[name] = result
  return {"values": values, "curves": curves, "not_measured": not_measured}
