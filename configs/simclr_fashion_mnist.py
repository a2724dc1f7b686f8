"""SimCLR (Chen et al., ICML 2020) on Fashion-MNIST, a small ViT, for CPUs.

    python -m jssl.data.prepare fashion_mnist
    export JAX_NUM_CPU_DEVICES=2
    python -m jssl.train --config=configs/simclr_fashion_mnist.py --workdir=W
    python -m jssl.probe --workdir=W

Two CPU devices of one core each are faster than one device of two cores: XLA
splits the batch over devices, but not every operation over threads.

Cost: 24 epochs in 33 minutes on two CPU cores, with the allocator settings of
launch/quickstart.sh (measured).
Expected: linear 86.9%, kNN 86.4%, MLP 89.5% (measured). Random backbone: 67.6,
72.3 and 76.7%. Raw pixels: 84.4, 87.4 and 89.2%. The README has the full table.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "") -> ConfigDict:
  if arg:
    raise ValueError(f"unknown variant {arg!r}; this config has none")
  epochs, batch_size = 24, 256
  return ConfigDict(
    {
      **recipes.fashion_mnist(epochs=epochs, batch_size=batch_size),
      "objective": {
        "name": "simclr",
        "temperature": 0.1,
        "projector": {"hidden_dims": (512,), "out_dim": 128},
      },
      "optim": {
        "name": "adamw",
        "learning_rate": 3e-3,
        "warmup_steps": 500,
        "weight_decay": 0.05,
        "b2": 0.98,
      },
      "checkpoint": {"every_steps": 561},
      "log": {"every_steps": 50},
    }
  )
