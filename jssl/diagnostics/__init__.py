"""Measures of features of any model, with and without labels.

Pure functions from NumPy arrays to numbers: spectrum and collapse, alignment
and uniformity of views, class centres, information about the image, and terms
of a generalisation bound. `batch_measures` alone runs inside a compiled step.

    >>> import numpy as np
    >>> h = np.random.default_rng(0).normal(size=(1000, 8)).astype("float32")
    >>> auc = collapse_auc(singular_values(h))

Features are [n, d] with one row per image, or [n, v, d] with v views of each.
They may be memory-mapped: measures of one pass read blocks of rows and compute
on the host in float64. Measures of all pairs of rows compute on devices, in
float32. `mesh` splits their rows over its devices, None is one device; it
changes results by rounding only.

All functions raise ValueError for inputs that cannot be measured (shapes, too
few rows, missing labels, non-finite values, views that are copies) and
TypeError for features that are not floating or labels that are not integers.
"""

from jssl.diagnostics.batch import batch_measures
from jssl.diagnostics.bound import (
  BoundTerms,
  divergence_curve,
  generalisation_bound,
  lipschitz_at_least,
  tightest_bound,
)
from jssl.diagnostics.centres import (
  CentreDivergence,
  ClassMeans,
  SimplexDistance,
  centre_divergence,
  centre_shrinkage,
  class_means,
  nearest_mean_error,
  simplex_distance,
)
from jssl.diagnostics.concentration import (
  ConcentrationCurve,
  augmented_distances,
  concentration_curve,
)
from jssl.diagnostics.entropies import (
  AssignmentEntropies,
  assignment_entropies,
  conditional_entropy,
  linear_predictability,
  maximal_invariant_entropy,
)
from jssl.diagnostics.forecast import (
  Forecast,
  LinearFit,
  collapse_onset,
  fit_accuracy,
  leave_one_run_out,
  rank_checkpoints,
  rank_correlation,
)
from jssl.diagnostics.neighbours import Neighbours, nearest_neighbours
from jssl.diagnostics.rows import Matrix, unit_rows
from jssl.diagnostics.spectrum import (
  SecondMoment,
  alpha_req,
  collapse_auc,
  cumulative_share,
  rank_me,
  second_moment,
  singular_values,
  stable_rank,
  values_of,
)
from jssl.diagnostics.splits import LossSplit, barlow_split, info_nce_split
from jssl.diagnostics.views import alignment, lidar, uniformity

__all__ = [
  "AssignmentEntropies",
  "BoundTerms",
  "CentreDivergence",
  "ClassMeans",
  "ConcentrationCurve",
  "Forecast",
  "LinearFit",
  "LossSplit",
  "Matrix",
  "Neighbours",
  "SecondMoment",
  "SimplexDistance",
  "alignment",
  "alpha_req",
  "assignment_entropies",
  "augmented_distances",
  "barlow_split",
  "batch_measures",
  "centre_divergence",
  "centre_shrinkage",
  "class_means",
  "collapse_auc",
  "collapse_onset",
  "concentration_curve",
  "conditional_entropy",
  "cumulative_share",
  "divergence_curve",
  "fit_accuracy",
  "generalisation_bound",
  "info_nce_split",
  "leave_one_run_out",
  "lidar",
  "linear_predictability",
  "lipschitz_at_least",
  "maximal_invariant_entropy",
  "nearest_mean_error",
  "nearest_neighbours",
  "rank_checkpoints",
  "rank_correlation",
  "rank_me",
  "second_moment",
  "simplex_distance",
  "singular_values",
  "stable_rank",
  "tightest_bound",
  "uniformity",
  "unit_rows",
  "values_of",
]
