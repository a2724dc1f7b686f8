"""Rows of diagnostics, as a probe writes them."""

ABOUT = {"dataset": "cluttered_digits"}


def spectrum_row(step, auc, *, features="backbone"):
  return {
    **ABOUT,
    "features": features,
    "step": step,
    "measure": "spectrum",
    "singular_values": [4.0, 2.0, 1.0],
    "collapse_auc": auc,
  }


def diagnostics_row(step, at, *, features="backbone", missing=(), **values):
  numbers = {
    "collapse_auc": 0.8,
    "rank_me": 12.3,
    "lidar": 5.0,
    "alpha_req": 1.25,
    "alignment": 0.5 - step / 100,
    "uniformity": -1.0 - step / 100,
    "image_entropy_given_features": 2.5,
    "nearest_mean_error": 0.25,
    "bound/outside": 1.5,
    "bound/rho": 2.0,
    **values,
  }
  return {
    **ABOUT,
    "features": features,
    "step": step,
    "measure": "diagnostics",
    "at": at,
    "values": {k: v for k, v in numbers.items() if k not in missing},
    "curves": {
      "singular_values": [4.0, 2.0, 1.0],
      "epsilon": [0.0, 1.0, 2.0],
      "divergence": [1.0, 0.5, 0.0],
    },
    "not_measured": {name: "too few <images>" for name in missing},
  }


CONCENTRATION = {
  **ABOUT,
  "features": "views",
  "step": 0,
  "measure": "concentration",
  "deltas": [1.0, 2.0],
  "one_minus_sigma": [0.75, 0.0],
  "lower_bound": [0.5, 0.0],
}
