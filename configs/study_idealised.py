r"""CISSL and DISSL (Dubois et al., NeurIPS 2022) against SimCLR and DINO.

    python -m jssl.study methods --config=configs/study_idealised.py \
      --workdir=W --diagnostics

METHODS: each method with the backbone's 64 feature dimensions, and expanded to
512 (`model.expand_dim`), as in `cissl_512`. Settings as in
configs/fashion_mnist.py, made small for many seeds (`recipes.for_many_seeds`).
The paper's claims: a student head of the probe's family improves a linear
probe, and so do more dimensions.

Cost: one to two minutes per method and seed on one CPU core.
Expected: linear accuracy 78.6% for SimCLR and 78.5% for CISSL; 512 dimensions
add 5 to 6 points to both and 17 points to a random backbone; see
docs/studies/idealised.md (measured).
"""

import pathlib
import runpy

from ml_collections import ConfigDict

from jssl.config import recipes

_WIDE = 512
_SHARED = runpy.run_path(
  str(pathlib.Path(__file__).with_name("fashion_mnist.py"))
)
METHODS = {
  f"{method}{suffix}": (method, dim)
  for method in ("simclr", "cissl", "dino", "dissl")
  for suffix, dim in (("", 0), (f"_{_WIDE}", _WIDE))
}


def get_config(arg: str = "simclr") -> ConfigDict:
  method, dim = METHODS[recipes.known(arg, METHODS)]
  config = recipes.for_many_seeds(_SHARED["get_config"](method))
  config.model.expand_dim = dim
  config.probe.probes = ("linear", "mlp")
  return config
