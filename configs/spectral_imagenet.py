"""Spectral contrastive (HaoChen et al., NeurIPS 2021) on ImageNet, ResNet-50.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/spectral_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs, default `:100`.

Batch size, epochs, head and SGD are from the authors' code, the augmentation is
SimSiam's. The batch of 384 divides over 8 or 128 devices, but not over 256.

Cost: 100 epochs of ImageNet at batch 384. Needs accelerators: check the fit
with `python -m jssl.preflight` first.
Expected: unknown. Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "100") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 384
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": recipes.moco_views(),
      "model": recipes.resnet(50),
      "objective": {
        "name": "spectral",
        "projector": {
          "hidden_dims": (8192, 8192),
          "out_dim": 8192,
          "last_norm": "affine",
        },
      },
      "optim": {
        "name": "sgd",
        "learning_rate": 0.05 * batch_size / 256,
        "weight_decay": 1e-4,
      },
    }
  )
