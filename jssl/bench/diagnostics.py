"""Streaming singular values, compared with a full SVD by NumPy in float64.

Features are isotropic, or have singular values that fall as a power law to
1e-6 of the largest, along random directions.
"""

import argparse
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from jssl.bench import harness
from jssl.diagnostics.spectrum import collapse_auc, singular_values

FLAGS = {
  "rounds": (3, "measurements of each case"),
  "rows": (50_000, "feature rows"),
  "dim": (512, "feature width"),
}


def power_law(dim: int) -> Float[np.ndarray, "{dim}"]:
  """Returns i^-a for i = 1 to dim, with a such that the last is 1e-6."""
  return np.arange(1, dim + 1) ** (np.log(1e-6) / np.log(dim))


def draw(
  rows: int, deviations: Float[np.ndarray, "d"]
) -> Float[np.ndarray, "{rows} d"]:
  """Draws Gaussian features with given deviations along random directions."""
  rng = np.random.default_rng(0)
  dim = len(deviations)
  directions = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
  x = rng.normal(size=(rows, dim)) * deviations @ directions
  return x.astype(np.float32)


def full_svd(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d"]:
  """Returns the singular values of the centred features."""
  wide = features.astype(np.float64)
  return np.linalg.svd(wide - wide.mean(0), compute_uv=False)


def compare(
  features: Float[np.ndarray, "n d"], *, rounds: int
) -> list[harness.Row]:
  """Returns a row for each algorithm, with the error of its result."""
  exact = full_svd(features)

  def case(name: str, algorithm: Callable) -> harness.Case:
    def describe(found: np.ndarray) -> harness.Row:
      error = np.abs(found / found[0] - exact / exact[0]).max()
      auc_error = abs(collapse_auc(found) - collapse_auc(exact))
      return {"AUC error": auc_error, "s_i / s_1 error": float(error)}

    return harness.Case(
      name,
      lambda: harness.timed(lambda: algorithm(features), describe=describe),
    )

  cases = [case("full SVD", full_svd), case("streaming", singular_values)]
  return harness.measure(cases, rounds=rounds, columns=harness.SECONDS)


def run(args: argparse.Namespace) -> harness.Report:
  """Compares both algorithms on each spectrum."""
  if not 2 <= args.dim <= args.rows:
    raise ValueError(f"--dim={args.dim}: expected 2 to --rows={args.rows}")
  spectra = {"isotropic": np.ones(args.dim), "power law": power_law(args.dim)}
  rows = [
    {"spectrum": name, **row}
    for name, deviations in spectra.items()
    for row in compare(draw(args.rows, deviations), rounds=args.rounds)
  ]
  return harness.Report(rows, {"features": f"{args.rows:,} x {args.dim}"})
