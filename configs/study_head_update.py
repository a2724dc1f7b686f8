r"""The head as a parameter of the loss (Gupta et al., 2022), on Fashion-MNIST.

    python -m jssl.study methods --config=configs/study_head_update.py \
      --workdir=W --diagnostics

METHODS: SimCLR with a jointly trained head (`joint`), or a head trained in
inner steps before each backbone step: treated as a constant (`alternating_1`,
`alternating_5`), differentiated through the steps (`unrolled_3`), or through
the inner solution (`implicit_5`). Settings as in configs/fashion_mnist.py, made
small for many seeds (`recipes.for_many_seeds`). The paper's claim, from its
abstract alone: alternating optimisation is better.

Cost: about a minute per method and seed on one CPU core.
Expected: 78.4% (linear) for joint, 78.1% for five inner steps; see
docs/studies/head_update.md (measured).
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
  # Without `l2` and `damping` the Hessian of the head is indefinite.
  "implicit_5": {
    "strategy": "implicit",
    "steps": 5,
    "l2": 1e-3,
    "damping": 1.0,
    **_INNER,
  },
}


def get_config(arg: str = "joint") -> ConfigDict:
  config = recipes.for_many_seeds(_SHARED["get_config"]("simclr"))
  config.head = METHODS[recipes.known(arg, METHODS)]
  config.probe.probes = ("linear",)
  return config
