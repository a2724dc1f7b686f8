"""All diagnostics of one matrix of features.

Spectra use all training images, other measures use augmented views of a sample
of them. A measure that fails leaves its reason; the others are still there.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jssl import diagnostics
from jssl.diagnostics import BoundTerms
from jssl.probe.sample import NOT_MEASURED, PixelViews, Sample

# Distances of unit vectors, up to the diameter of the sphere.
_EPSILONS = np.linspace(0, 2, 41)

# An array, or an object that computes the rows that are indexed.
Matrix = Any


class _Results:
  """Numbers by name, and reasons by the name of what is missing."""

  def __init__(self) -> None:
    self.values: dict[str, Any] = {}
    self.not_measured: dict[str, str] = {}

  def put(
    self, name: str, measure: Callable[[], Any], *, prevented: str = ""
  ) -> None:
    """Stores a number, or the fields of a tuple as `name/field`.

    Args:
      name: name of the number.
      measure: returns the number.
      prevented: reason not to measure; "" if there is none.
    """
    try:
      if prevented:
        raise ValueError(prevented)
      value = measure()
    except NOT_MEASURED as error:
      self.not_measured[name] = str(error)
      return
    fields = getattr(value, "_fields", None)
    if fields is None:
      self.values[name] = value
    else:
      self.values |= {
        f"{name}/{field}": one for field, one in zip(fields, value, strict=True)
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

  Args:
    moment: returns the second moment of all training features.
    test: features of all test images.
    test_labels: class of each test image.
    views: features of the views of the sample.
    sample: images of the views.
    pixels: pixels of the same views.

  Returns:
    "values", "curves" and "not_measured" (reasons), each by name.
  """
  found, mesh = _Results(), sample.mesh
  # Measures that compare views are meaningless if all views are identical.
  put_views = functools.partial(found.put, prevented=pixels.identical)
  n, v, dim = views.shape
  labels, classes = sample.labels, sample.num_classes
  unit = diagnostics.unit_rows(views).astype(np.float32)

  @functools.cache
  def spectrum() -> Float[np.ndarray, "d"]:
    return diagnostics.values_of(moment())

  found.put("collapse_auc", lambda: diagnostics.collapse_auc(spectrum()))
  found.put(
    "rank_me",
    lambda: diagnostics.rank_me(diagnostics.values_of(moment(), centre=False)),
  )
  found.put("alpha_req", lambda: diagnostics.alpha_req(spectrum()))
  found.put("stable_rank", lambda: diagnostics.stable_rank(spectrum()))
  put_views("lidar", lambda: diagnostics.lidar(views, mesh=mesh))
  put_views("alignment", lambda: diagnostics.alignment(views, mesh=mesh))
  found.put(
    "uniformity", lambda: diagnostics.uniformity(views[:, 0], mesh=mesh)
  )

  put_views(
    "info_nce", lambda: diagnostics.info_nce_split(unit[:, :2], mesh=mesh)
  )
  put_views("barlow", lambda: diagnostics.barlow_split(views[:, :2], mesh=mesh))

  @functools.cache
  def means() -> diagnostics.ClassMeans:
    return diagnostics.class_means(
      unit.reshape(n * v, dim), np.repeat(labels, v), classes, mesh=mesh
    )

  found.put("centres", lambda: diagnostics.centre_divergence(means()))
  found.put("centre_shrinkage", lambda: diagnostics.centre_shrinkage(means()))
  found.put("class_simplex", lambda: diagnostics.simplex_distance(means().seen))
  found.put(
    "nearest_mean_error",
    lambda: diagnostics.nearest_mean_error(
      test, test_labels, means(), mesh=mesh
    ),
  )

  # In section 1 of the paper M(x) is the image that a view comes from.
  found.put("simplex", lambda: diagnostics.simplex_distance(views.mean(1)))
  known = v // 2
  found.put("image_entropy", lambda: diagnostics.maximal_invariant_entropy(n))
  put_views(
    "image_entropy_given_features",
    lambda: diagnostics.conditional_entropy(views, mesh=mesh),
  )
  put_views(
    "linear_predictability",
    lambda: diagnostics.linear_predictability(
      views[:, :known], views[:, known:], mesh=mesh
    ),
  )

  put_views(
    "lipschitz",
    lambda: diagnostics.lipschitz_at_least(pixels.pixels, unit, mesh=mesh),
  )

  @functools.cache
  def divergence() -> Float[np.ndarray, "t"]:
    # Weighted, because R_eps is of the set and the sample is balanced.
    return diagnostics.divergence_curve(
      unit, _EPSILONS, weights=sample.weights, mesh=mesh
    )

  def bound() -> BoundTerms:
    if pixels.curve is None:
      raise ValueError(pixels.no_curve)
    if "lipschitz" not in found.values:
      raise ValueError(found.not_measured["lipschitz"])
    shares = np.bincount(labels, sample.weights)
    return diagnostics.tightest_bound(
      means().seen,
      pixels.curve,
      _EPSILONS,
      divergence(),
      lipschitz=found.values["lipschitz"],
      radius=1.0,
      min_share=float(shares[shares > 0].min()),
    )

  found.put("bound", bound)
  curves = _Results()
  curves.put("singular_values", lambda: spectrum().tolist())
  curves.put("deviation", lambda: np.sort(moment().std)[::-1].tolist())
  curves.put("epsilon", _EPSILONS.tolist)
  curves.put(
    "divergence", lambda: divergence().tolist(), prevented=pixels.identical
  )
  return {
    "values": found.values,
    "curves": curves.values,
    "not_measured": {**curves.not_measured, **found.not_measured},
  }
