"""CISSL and DISSL (Dubois et al., NeurIPS 2022) beside SimCLR and DINO.

    python -m jssl.study methods --config=configs/study_idealised.py \
      --workdir=W --diagnostics

METHODS: each at the width of the backbone, 128, and with features of 512
(`model.expand_dim`), as in `cissl_512`. An epoch of Fashion-MNIST, all else as
in configs/fashion_mnist.py. The paper's claims: with a student head of the
probe's family a linear probe gains, and it gains by more dimensions.

Cost: two to five minutes each on two CPU cores. Expected: SimCLR 83.4%
(linear), CISSL 83.2%, 512 dimensions 3 to 5 points more, and a random backbone
15 points more; see docs/studies/idealised.md (measured).
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
  name, epochs = recipes.variant(arg, tuple(METHODS), 1)
  method, dim = METHODS[name]
  config = _SHARED["get_config"](f"{method},{epochs}")
  config.model.expand_dim = dim
  config.probe.probes = ("linear", "mlp")
  config.probe.seeds = 1
  return config
