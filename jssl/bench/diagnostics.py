"""`python -m jssl.bench.diagnostics`: streaming singular values beside the SVD.

The features have as many directions that vary alike (isotropic), or singular
values that fall as a power of their place down to 1e-6 of the largest; in both,
turned at random. Beside ours is NumPy's SVD of the whole matrix in float64,
mean removed. What is printed are medians of rounds in turns, and by how much
the two differ.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import app, flags
from jaxtyping import Float

from jssl.diagnostics.spectrum import collapse_auc, singular_values

_ROWS = flags.DEFINE_integer("rows", 50_000, "Rows of features.")
_DIM = flags.DEFINE_integer("dim", 512, "Their width.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Of both, in turns.")

_SMALLEST = 1e-6


class Comparison(NamedTuple):
  """Ours beside the full SVD.

  Attributes:
    streaming_s: median seconds of `singular_values`.
    full_s: median seconds of NumPy's SVD.
    auc_gap: absolute difference of the collapse AUC.
    values_gap: largest absolute difference of s_i / s_1.
  """

  streaming_s: float
  full_s: float
  auc_gap: float
  values_gap: float


def power_law(dim: int) -> Float[np.ndarray, "{dim}"]:
  """Returns i^-a, i from 1, with the a that ends at 1e-6."""
  places = np.arange(1, dim + 1)
  return places ** (np.log(_SMALLEST) / np.log(dim))


def draw(
  rows: int, deviations: Float[np.ndarray, "d"]
) -> Float[np.ndarray, "{rows} d"]:
  """Returns Gaussian features with these deviations along random directions."""
  rng = np.random.default_rng(0)
  dim = len(deviations)
  directions = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
  x = rng.normal(size=(rows, dim)) * deviations @ directions
  return x.astype(np.float32)


def full(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d"]:
  """Returns the singular values by an SVD of the whole matrix."""
  wide = features.astype(np.float64)
  return np.linalg.svd(wide - wide.mean(0), compute_uv=False)


def compare(features: Float[np.ndarray, "n d"], *, rounds: int) -> Comparison:
  """Measures both on the same features.

  Args:
    features: [n, d], n >= d.
    rounds: of both in turns, after one that is not counted.
  """

  def timed(
    function: Callable[[np.ndarray], np.ndarray],
  ) -> tuple[float, Float[np.ndarray, "d"]]:
    started = time.perf_counter()
    values = function(features)
    return time.perf_counter() - started, values

  singular_values(features)
  seconds = []
  for _ in range(rounds):
    ours_s, ours = timed(singular_values)
    theirs_s, theirs = timed(full)
    seconds.append((ours_s, theirs_s))
  streaming_s, full_s = np.median(seconds, axis=0)
  return Comparison(
    streaming_s=float(streaming_s),
    full_s=float(full_s),
    auc_gap=abs(collapse_auc(ours) - collapse_auc(theirs)),
    values_gap=float(np.abs(ours / ours[0] - theirs / theirs[0]).max()),
  )


def main(argv: list[str]) -> None:
  """Prints a line for each spectrum."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  rows, dim, rounds = _ROWS.value, _DIM.value, _ROUNDS.value
  if not 2 <= dim <= rows or rounds < 1:
    raise app.UsageError(
      f"--dim={dim} must be from 2 to --rows={rows}, --rounds={rounds} at least"
      " 1"
    )
  print(f"{rows:,} x {dim} float32 features, medians of {rounds} rounds")
  spectra = {"isotropic": np.ones(dim), "power law": power_law(dim)}
  for name, deviations in spectra.items():
    found = compare(draw(rows, deviations), rounds=rounds)
    print(
      f"{name:9}   streaming {found.streaming_s:.3f} s   "
      f"full SVD {found.full_s:.3f} s   "
      f"ratio {found.streaming_s / found.full_s:.3f}   "
      f"AUC differs by {found.auc_gap:.1e}, "
      f"s_i / s_1 by {found.values_gap:.1e}",
      flush=True,
    )


if __name__ == "__main__":
  app.run(main)
