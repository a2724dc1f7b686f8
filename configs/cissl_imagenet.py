"""CISSL (Dubois et al., NeurIPS 2022) on ImageNet, ResNet-50, batch 2560.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/cissl_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants, with epochs after a comma, as in `:dim,400`: `:dim` (the default), 100
epochs and 8192 dimensions, and `:base`, without the expansion. Heads and
optimizer are those of the authors' code; the batch is DISSL's.

Cost: batch 2560, 100 epochs of ImageNet; not for a CPU; compile it for your
slice first. Expected: not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes

VARIANTS = ("dim", "base")


def get_config(arg: str = "dim") -> ConfigDict:
  name, epochs = recipes.variant(arg, VARIANTS, 100)
  batch_size = 2560
  epoch = recipes.IMAGENET_IMAGES // batch_size
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": recipes.simclr_views(),
      "model": {
        **recipes.resnet(50),
        "expand_dim": 8192 if name == "dim" else 0,
      },
      "objective": {
        "name": "cissl",
        "temperature": 0.1,
        "student": {"out_dim": 128},
        "teacher": {"hidden_dims": (512, 2048, 2048), "out_dim": 128},
      },
      "optim": {
        "name": "lars",
        "learning_rate": 0.3 * batch_size / 256,
        "warmup_steps": 10 * epoch,
        "weight_decay": 1e-6,
      },
    }
  )
