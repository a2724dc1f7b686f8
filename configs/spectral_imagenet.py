"""Spectral contrastive (HaoChen et al., NeurIPS 2021) on ImageNet, ResNet-50.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/spectral_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: `:100` epochs (the default), or any other number. Batch, epochs, head
and SGD are the authors' code's, the augmentation SimSiam's. 384 images divide
over 8 or 128 devices, not over 256.

Cost: batch 384, 100 epochs of ImageNet; not for a CPU; compile it for your
slice first. Expected: not measured here.
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
