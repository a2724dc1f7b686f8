"""Every method on Fashion-MNIST at one budget: a small ViT, for CPUs.

    python -m jssl.data.prepare fashion_mnist
    export JAX_NUM_CPU_DEVICES=2
    python -m jssl.train --config=configs/fashion_mnist.py:byol --workdir=W
    python -m jssl.probe --workdir=W

Variants: a method, and after a comma epochs, as in `:byol,24`; by default
SimCLR (Chen et al., ICML 2020) and 1. Backbone, views, batch, steps and
optimizer are the same for all; what differs is below, and is the method's own.

Cost: an epoch, minutes on two CPU cores. Expected, and measured: see
docs/methods.md, which `python -m jssl.study methods` makes.
"""

from typing import Any

from ml_collections import ConfigDict

from jssl.config import recipes

# As wide as the backbone's features allow to tell something; the papers' are
# for features of 2048.
_PROJECTOR = {"hidden_dims": (512,), "out_dim": 128}
_WIDE = {"hidden_dims": (512,), "out_dim": 512}

METHODS: dict[str, dict[str, Any]] = {
  "simclr": {"temperature": 0.1, "projector": _PROJECTOR},
  "dcl": {"temperature": 0.1, "projector": _PROJECTOR},
  "supcon": {"temperature": 0.1, "projector": _PROJECTOR},
  "nnclr": {
    "temperature": 0.1,
    "queue_size": 4096,
    "projector": _PROJECTOR,
    "predictor": _PROJECTOR,
  },
  "moco_v3": {
    "temperature": 0.2,
    "projector": _PROJECTOR,
    "predictor": _PROJECTOR,
    "momentum_start": 0.99,
  },
  "spectral": {"projector": _WIDE},
  "byol": {
    "projector": _PROJECTOR,
    "predictor": _PROJECTOR,
    "momentum_start": 0.99,
  },
  "simsiam": {
    "projector": {"hidden_dims": (512, 512), "out_dim": 512},
    "predictor": {"hidden_dims": (128,), "out_dim": 512},
  },
  "barlow_twins": {"projector": _WIDE},
  "vicreg": {"projector": _WIDE},
  "w_mse": {"projector": {"hidden_dims": (512,), "out_dim": 64}},
  "swav": {
    "prototypes": {"number": 512, "freeze_steps": 50},
    "projector": _PROJECTOR,
  },
  "dino": {
    "prototypes": {"number": 1024, "freeze_steps": 50},
    "teacher_temperature": 0.04,
    "momentum_start": 0.99,
    "projector": {"hidden_dims": (512, 512), "out_dim": 128},
  },
  "lejepa": {
    "num_slices": 256,
    "projector": {"hidden_dims": (512, 512), "out_dim": 64},
  },
  "cissl": {
    "teacher": {"hidden_dims": (512,), "out_dim": 128},
    "student": {"out_dim": 128},
  },
  "dissl": {
    "prototypes": {"number": 1024},
    "student": {"out_dim": 128},
    "teacher": {"hidden_dims": (512,), "out_dim": 128},
  },
}


def get_config(arg: str = "simclr") -> ConfigDict:
  method, epochs = recipes.variant(arg, tuple(METHODS), 1)
  batch_size = 256
  steps = recipes.FASHION_MNIST_IMAGES // batch_size * epochs
  return ConfigDict(
    {
      **recipes.fashion_mnist(epochs=epochs, batch_size=batch_size),
      "objective": {"name": method, **METHODS[method]},
      "optim": {
        "name": "adamw",
        "learning_rate": 3e-3,
        "warmup_steps": 50,
        "weight_decay": 0.05,
        "b2": 0.98,
        "clip_norm": 3.0,
      },
      "checkpoint": {"every_steps": steps},
      "log": {"every_steps": 26},
      # Small: sixteen methods are probed.
      "probe": {"label_fractions": (), "minibatch_epochs": 5},
    }
  )
