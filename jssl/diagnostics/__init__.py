"""What features are like: measures with and without labels.

Pure functions of matrices of features, NumPy in and numbers out, of any model:

    >>> import numpy as np
    >>> h = np.random.default_rng(0).normal(size=(1000, 8)).astype("float32")
    >>> auc = collapse_auc(singular_values(h))

Features may be memory-mapped and larger than any device: they are read a block
of rows at a time, once, and what is kept is O(d^2). Blocks are summed on the
device in float32 (second moments in float64), and added up on the host in
float64. What compares all pairs of rows works in tiles, and says so.

Shapes are [n, d] for one row an image, [n, v, d] for v views of each. `mesh`
splits the rows over its devices, and never changes the result by more than
rounding. What can't be measured (too few rows, no labels, one class, values
that aren't finite, views that are copies) is a ValueError with the numbers; a
dtype that is neither floating nor, for labels, integer is a TypeError.
"""

from jssl.diagnostics.batch import batch_measures
from jssl.diagnostics.bound import (
  BoundTerms,
  generalisation_bound,
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
from jssl.diagnostics.divergence import divergence_curve, lipschitz_at_least
from jssl.diagnostics.entropies import (
  AssignmentEntropies,
  assignment_entropies,
  conditional_entropy,
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
from jssl.diagnostics.predictability import linear_predictability
from jssl.diagnostics.rows import unit_rows
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
