"""CISSL (Dubois et al., NeurIPS 2022) on ImageNet, ResNet-50, batch 2560.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/cissl_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: `:dim` (default) with 8192 feature dimensions, `:base` without the
expansion, 100 epochs each. Epochs follow a comma, as in `:dim,400`.

Heads and optimizer are from the authors' code; the batch size is DISSL's.

Cost: 100 epochs of ImageNet at batch 2560. Needs accelerators: check the fit
with `python -m jssl.preflight` first.
Expected: unknown. Not measured here.
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
