"""The head as a parameter of the loss (Gupta et al., 2022), on Fashion-MNIST.

    python -m jssl.study methods --config=configs/study_head_update.py \
      --workdir=W --diagnostics

METHODS: SimCLR with its head learned jointly, or in inner steps before each
step of the backbone (`alternating_1`, `alternating_5`), which the backbone's
gradient knows of (`unrolled_3`) or of whose solution it does (`implicit_5`). An
epoch, all else as in configs/fashion_mnist.py. Only the paper's abstract was at
hand: it claims that an alternating optimisation is better.

Cost: two to five minutes each on two CPU cores. Expected: 83.3% (linear)
jointly, 83.5% with five inner steps; see docs/studies/head_update.md
(measured).
"""

import pathlib
import runpy

from ml_collections import ConfigDict

from jssl.config import recipes

_SHARED = runpy.run_path(
  str(pathlib.Path(__file__).with_name("fashion_mnist.py"))
)
_INNER = {"optimizer": "adam", "learning_rate": 3e-3}
METHODS = {
  "joint": {},
  "alternating_1": {"strategy": "alternating", "steps": 1, **_INNER},
  "alternating_5": {"strategy": "alternating", "steps": 5, **_INNER},
  "unrolled_3": {"strategy": "unrolled", "steps": 3, **_INNER},
  # Without either its second derivative is indefinite.
  "implicit_5": {
    "strategy": "implicit",
    "steps": 5,
    "l2": 1e-3,
    "damping": 1.0,
    **_INNER,
  },
}


def get_config(arg: str = "joint") -> ConfigDict:
  name, epochs = recipes.variant(arg, tuple(METHODS), 1)
  config = _SHARED["get_config"](f"simclr,{epochs}")
  config.head = METHODS[name]
  config.probe.probes = ("linear", "mlp")
  config.probe.seeds = 1
  return config
