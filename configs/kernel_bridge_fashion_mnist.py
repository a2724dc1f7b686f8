r"""The bridge from the kernel regime to a training, on Fashion-MNIST.

A linear map of fixed kernel features, trained by the train step with both
losses of "Joint Embedding Self-Supervised Learning in the Kernel Regime"
(Kiani et al., 2022, arXiv 2209.14884), against their closed forms: 60 images
of 4 views, all dimensions or 8 of them, two bases of the same features.

    python -m jssl.data.prepare fashion_mnist
    python -m jssl.study bridge \
      --config=configs/kernel_bridge_fashion_mnist.py --workdir=W

Variants: the kernels of configs/kernel_fashion_mnist.py, `:rbf` (the default),
`:arc_cosine`, `:mlp_ntk`, `:conv_gp`, `:conv_ntk`.

Cost: a minute and a half on two CPU cores. Expected: see
docs/studies/bridge.md (measured).
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
