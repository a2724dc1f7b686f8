"""Methods compared by segmentation of generated digits, for CPUs.

    python -m jssl.train --config=configs/segmentation_digits.py:mae --workdir=W
    python -m jssl.probe --workdir=W

The set, views and backbone of configs/quickstart.py with patches of 4 px, so
that an image has 64 tokens. The dense probe fits a linear head to the tokens.

Variants: a method of METHODS, default `:simclr` (Chen et al., ICML 2020), with
its settings of configs/fashion_mnist.py. Steps follow a comma, as in
`:mae,1000`; default 300.

Cost: 5 minutes (mae) to 20 (ibot) on a busy CPU core.
Expected: mean IoU of the linear head 27% for simclr and 11 to 14% for the
others, 9% for a random backbone; see docs/measured.md (measured).
"""

import pathlib
import runpy

from ml_collections import ConfigDict

from jssl.config import recipes

_HERE = pathlib.Path(__file__)
_SHARED = runpy.run_path(str(_HERE.with_name("fashion_mnist.py")))["METHODS"]
_QUICKSTART = runpy.run_path(str(_HERE.with_name("quickstart.py")))
METHODS = {
  **{name: _SHARED[name] for name in ("simclr", "mae", "ibot", "dinov2")},
  "ijepa": _SHARED["ijepa"],
  "simmim": {"mask_unit_px": 8},
}


def get_config(arg: str = "simclr") -> ConfigDict:
  method, steps = recipes.variant(arg, METHODS, 300)
  config = _QUICKSTART["get_config"]()
  config.objective = {"name": method, **METHODS[method]}
  # The set of the quickstart has no masks.
  config.data.name = "cluttered_digits"
  config.data.batch_size = 128
  config.model.mean = (0.4,)
  config.model.patch_size_px = 4
  config.optim.clip_norm = 3.0
  config.train.steps = config.checkpoint.every_steps = steps
  config.probe.probes = ("linear", "knn")
  config.probe.label_fractions = ()
  config.probe.dense_images = 500
  return config
