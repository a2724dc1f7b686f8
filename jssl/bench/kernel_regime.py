"""Gram matrices and solvers of the kernel regime.

Points are random, since the time of closed forms does not depend on them. Peak
memory is that of the process up to the end of the case.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from jssl.bench import harness
from jssl.kernel_regime.convolutional import ConvGP
from jssl.kernel_regime.dense import RBF, median_bandwidth
from jssl.kernel_regime.gram import gram
from jssl.kernel_regime.losses import Contrastive, NonContrastive
from jssl.kernel_regime.psd import with_jitter
from jssl.kernel_regime.solvers import alpha_max, closed_form, ridge_closed_form

FLAGS = {
  "rounds": (1, "measurements of each case"),
  "points": (4000, "views, N"),
  "views": (4, "views of an image"),
  "d_out": (128, "embedding width"),
  "images": (200, "images of the convolutional kernel"),
  "image_size_px": (28, "height and width of these images"),
}
Loss = Contrastive | NonContrastive


def _cases(args: argparse.Namespace) -> Iterator[harness.Case]:
  rng = np.random.default_rng(0)
  n, d_out = args.points, args.d_out
  x = rng.normal(size=(n, 64))
  ids = np.arange(n) // args.views
  kernel = RBF(median_bandwidth(x))
  raw = gram(kernel, x)
  k = with_jitter(raw)
  pixels = rng.uniform(size=(args.images, *2 * (args.image_size_px,), 1))

  def solve(loss: Loss) -> np.ndarray:
    return closed_form(k, loss.top_eigenpairs(ids, d_out))

  def gap(loss: Loss, m: np.ndarray) -> harness.Row:
    relative = loss.relative_gap(loss.value(k @ m.T, ids), ids, d_out)
    return {"relative gap to the minimum": abs(relative)}

  def ridge(loss: Loss) -> np.ndarray:
    alpha = 0.03 * alpha_max(k, loss, ids)
    return ridge_closed_form(k, loss, ids, alpha=alpha)

  def case(
    name: str, size: int, function: Callable, **options: Any
  ) -> harness.Case:
    run = partial(harness.timed, function, **options)
    return harness.Case(name, run, {"N": size})

  yield case("gram, RBF", n, lambda: gram(kernel, x))
  yield case("jitter", n, lambda: with_jitter(raw))
  losses = {type(x).__name__: x for x in (Contrastive(), NonContrastive(0.4))}
  for name, loss in losses.items():
    run, describe = partial(solve, loss), partial(gap, loss)
    yield case(f"closed form, {name}", n, run, describe=describe)
  for name, loss in losses.items():
    run = partial(ridge, loss)
    yield case(f"ridge, {name}", n, run, describe=lambda m: {"rank": len(m)})
  conv_gp = partial(gram, ConvGP(depth=3), pixels)
  yield case("gram, ConvGP of depth 3", args.images, conv_gp)


def run(args: argparse.Namespace) -> harness.Report:
  """Measures each part once per round."""
  columns = {
    **harness.SECONDS,
    "peak GiB": lambda timing: timing.peak_rss_bytes / 2**30,
  }
  rows = harness.measure(
    _cases(args), rounds=args.rounds, columns=columns, warmup=0, compare=False
  )
  return harness.Report(rows, {"d_out": args.d_out, "views": args.views})
