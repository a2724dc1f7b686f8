"""`python -m jssl.bench.kernel_regime`: what the kernel regime costs.

Seconds of each part, on the clock and of all cores, and the peak of the
process' memory after it, on normal points: time of the solvers doesn't depend
on what points are.
"""

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

from absl import app, flags

_ROWS = flags.DEFINE_integer("rows", 4000, "N of the closed forms.")
_IMAGES = flags.DEFINE_integer("images", 200, "N of a convolutional kernel.")
_SIZE = flags.DEFINE_integer("size_px", 28, "Width and height of its images.")
_VIEWS = flags.DEFINE_integer("views", 4, "Of an image.")
_D_OUT = flags.DEFINE_integer("d_out", 128, "Dimension of the embedding.")


@contextmanager
def _told(name: str, **about: float | int) -> Iterator[dict[str, float | int]]:
  more: dict[str, float | int] = dict(about)
  started, cpu = time.perf_counter(), time.process_time()
  yield more
  row = {
    "part": name,
    "seconds": round(time.perf_counter() - started, 2),
    # Of all threads: what a machine that is shared takes less part in.
    "CPU seconds": round(time.process_time() - cpu, 2),
    # KiB on Linux.
    "peak GiB": round(
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2
    ),
    **more,
  }
  print(json.dumps(row), flush=True)


def main(argv: list[str]) -> None:
  """Prints a line of JSON for each part."""
  del argv
  import numpy as np

  from jssl.kernel_regime.convolutional import ConvGP
  from jssl.kernel_regime.dense import RBF, median_bandwidth
  from jssl.kernel_regime.gram import gram
  from jssl.kernel_regime.losses import Contrastive, NonContrastive
  from jssl.kernel_regime.psd import with_jitter
  from jssl.kernel_regime.solvers import (
    alpha_max,
    closed_form,
    ridge_closed_form,
  )

  rng = np.random.default_rng(0)
  n = _ROWS.value
  x = rng.normal(size=(n, 64))
  ids = np.arange(n) // _VIEWS.value
  kernel = RBF(median_bandwidth(x))
  with _told("gram, RBF", n=n):
    k = gram(kernel, x)
  with _told("jitter", n=n):
    k = with_jitter(k)
  for loss in (Contrastive(), NonContrastive(0.4)):
    name = type(loss).__name__
    with _told(f"closed form, {name}", n=n, d_out=_D_OUT.value) as more:
      m = closed_form(k, loss.top_eigenpairs(ids, _D_OUT.value))
      gap = loss.relative_gap(loss.value(k @ m.T, ids), ids, _D_OUT.value)
      more["gap to the minimum, relative"] = abs(gap)
  for loss in (Contrastive(), NonContrastive(0.4)):
    with _told(f"ridge, {type(loss).__name__}", n=n) as more:
      alpha = 0.03 * alpha_max(k, loss, ids)
      more["rank"] = len(ridge_closed_form(k, loss, ids, alpha=alpha))
  pixels = rng.uniform(size=(_IMAGES.value, _SIZE.value, _SIZE.value, 1))
  with _told("gram, ConvGP of depth 3", n=_IMAGES.value, size_px=_SIZE.value):
    gram(ConvGP(depth=3), pixels)


if __name__ == "__main__":
  app.run(main)
