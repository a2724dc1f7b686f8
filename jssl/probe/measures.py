"""All that is measured of one kind of features, in order.

Spectra are of all training images as the probes see them, the rest of views of
some training images, made as the run makes its large ones. What can't be
measured leaves its reason, and the rest is there.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jssl import diagnostics
from jssl.diagnostics import BoundTerms
from jssl.probe.sample import NOT_MEASURED, Sample, Surroundings

# Of unit features, between 0 and the diameter of the sphere.
_EPSILONS = np.linspace(0, 2, 41)

# A matrix, or what makes its rows when asked.
Rows = Any


class _Found:
  """Numbers by name; and where there is none, why."""

  def __init__(self) -> None:
    self.values: dict[str, Any] = {}
    self.not_measured: dict[str, str] = {}

  def put(
    self, name: str, measure: Callable[[], Any], *, unless: str = ""
  ) -> None:
    """Keeps a number, or the fields of a tuple as `name/field`.

    Args:
      name: of it.
      measure: returns it.
      unless: a reason not to; "" is none.
    """
    try:
      if unless:
        raise ValueError(unless)
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
  test: Rows,
  test_labels: Int[np.ndarray, "m"],
  of_views: Float[np.ndarray, "n v d"],
  sample: Sample,
  surroundings: Surroundings,
) -> dict[str, Any]:
  """Measures one kind of features.

  Args:
    moment: of all training images, in the view of evaluation.
    test: of all test images.
    test_labels: their classes.
    of_views: of the sample's views.
    sample: what they are views of.
    surroundings: of the same views.

  Returns:
    `values` by name, `curves` by name, and `not_measured`, reasons by name.
  """
  found, mesh = _Found(), sample.mesh
  # A measure of how views differ says nothing where they don't.
  put_views = functools.partial(found.put, unless=surroundings.copies)
  n, v, dim = of_views.shape
  labels, classes = sample.labels, sample.num_classes
  unit = diagnostics.unit_rows(of_views).astype(np.float32)

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
  put_views("lidar", lambda: diagnostics.lidar(of_views, mesh=mesh))
  put_views("alignment", lambda: diagnostics.alignment(of_views, mesh=mesh))
  found.put(
    "uniformity", lambda: diagnostics.uniformity(of_views[:, 0], mesh=mesh)
  )

  put_views(
    "info_nce", lambda: diagnostics.info_nce_split(unit[:, :2], mesh=mesh)
  )
  put_views(
    "barlow", lambda: diagnostics.barlow_split(of_views[:, :2], mesh=mesh)
  )

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

  # Section 1 is about images: M(x) is which one a view is of.
  found.put("simplex", lambda: diagnostics.simplex_distance(of_views.mean(1)))
  known = v // 2
  found.put("image_entropy", lambda: diagnostics.maximal_invariant_entropy(n))
  put_views(
    "image_entropy_given_features",
    lambda: diagnostics.conditional_entropy(of_views, mesh=mesh),
  )
  put_views(
    "linear_predictability",
    lambda: diagnostics.linear_predictability(
      of_views[:, :known], of_views[:, known:], mesh=mesh
    ),
  )

  put_views(
    "lipschitz",
    lambda: diagnostics.lipschitz_at_least(
      surroundings.pixels, unit, mesh=mesh
    ),
  )

  @functools.cache
  def divergence() -> Float[np.ndarray, "t"]:
    # R_eps is of the set, and the sample has as many images of each class.
    return diagnostics.divergence_curve(
      unit, _EPSILONS, weights=sample.weights, mesh=mesh
    )

  def bound() -> BoundTerms:
    if surroundings.curve is None:
      raise ValueError(surroundings.why_not)
    if "lipschitz" not in found.values:
      raise ValueError(found.not_measured["lipschitz"])
    shares = np.bincount(labels, sample.weights)
    return diagnostics.tightest_bound(
      means().seen,
      surroundings.curve,
      _EPSILONS,
      divergence(),
      lipschitz=found.values["lipschitz"],
      radius=1.0,
      min_share=float(shares[shares > 0].min()),
    )

  found.put("bound", bound)
  curves = _Found()
  curves.put("singular_values", lambda: spectrum().tolist())
  curves.put("deviation", lambda: np.sort(moment().std)[::-1].tolist())
  curves.put("epsilon", _EPSILONS.tolist)
  curves.put(
    "divergence", lambda: divergence().tolist(), unless=surroundings.copies
  )
  return {
    "values": found.values,
    "curves": curves.values,
    "not_measured": {**curves.not_measured, **found.not_measured},
  }
