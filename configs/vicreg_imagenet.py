"""VICReg (Bardes et al., ICLR 2022) on ImageNet, ResNet-50, batch 2048.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/vicreg_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs above 10, default `:1000`.

The optimizer is from the authors' code. The augmentation is BYOL's, from
memory.

Cost: 1000 epochs of ImageNet at batch 2048. Needs accelerators: check the fit
with `python -m jssl.preflight` first.
Expected: linear accuracy 73.2% after 1000 epochs (paper). Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "1000") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 2048
  epoch = recipes.IMAGENET_IMAGES // batch_size
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": recipes.byol_views(),
      "model": recipes.resnet(50),
      "objective": {
        "name": "vicreg",
        "invariance_weight": 25.0,
        "variance_weight": 25.0,
        "covariance_weight": 1.0,
        "projector": {"hidden_dims": (8192, 8192), "out_dim": 8192},
      },
      "optim": {
        "name": "lars",
        "learning_rate": 0.2 * batch_size / 256,
        "warmup_steps": 10 * epoch,
        "end_fraction": 0.001,
        "weight_decay": 1e-6,
      },
    }
  )
