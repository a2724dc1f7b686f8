r"""Kernel regime by gradient descent on Fashion-MNIST, against closed forms.

The train step fits a linear map of fixed kernel features with both losses of
"Joint Embedding Self-Supervised Learning in the Kernel Regime" (Kiani et al.,
2022, arXiv 2209.14884). The study compares it with the closed-form optima: 60
images with 4 views, full rank or 8 dimensions, two bases of the same features.

    python -m jssl.data.prepare fashion_mnist
    python -m jssl.study bridge \
      --config=configs/kernel_bridge_fashion_mnist.py --workdir=W

Variants: the kernels of configs/kernel_fashion_mnist.py: `:rbf` (default),
`:arc_cosine`, `:mlp_ntk`, `:conv_gp`, `:conv_ntk`.

Cost: 1.5 minutes on two CPU cores.
Expected: docs/studies/bridge.md (measured).
"""

import pathlib
import runpy

from ml_collections import ConfigDict

_KERNELS = runpy.run_path(
  str(pathlib.Path(__file__).with_name("kernel_fashion_mnist.py"))
)
VARIANTS = _KERNELS["VARIANTS"]


def get_config(arg: str = "rbf") -> ConfigDict:
  config = _KERNELS["get_config"](arg)
  config.problem.images = 60
  # Neither a ridge nor sweeps.
  config.problem.alpha = 0.0
  del config.sweep
  config.bridge = {"d_outs": (0, 8)}
  return config
