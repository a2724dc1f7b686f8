"""Barlow Twins (Zbontar et al., ICML 2021) on ImageNet, ResNet-50, batch 2048.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/barlow_twins_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: `:1000` epochs (the default), or any number over 10. The optimizer is
that of the authors' code, which has a learning rate of its own for biases and
norms, 0.024 of the other: LARS doesn't adapt those, so `scale` does the same.

Cost: batch 2048, 1000 epochs of ImageNet; not for a CPU; compile it for your
slice first. Expected: 73.3% linear after 1000 epochs, 67.2% after 100
(published); not measured here.
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
        "name": "barlow_twins",
        "off_diagonal_weight": 0.005,
        "scale": 0.024,
        "projector": {"hidden_dims": (8192, 8192), "out_dim": 8192},
      },
      "optim": {
        "name": "lars",
        "learning_rate": 0.2 * batch_size / 256,
        "warmup_steps": 10 * epoch,
        "end_fraction": 0.001,
        # Of a loss that is scaled: 1e-6 in the code, whose loss isn't.
        "weight_decay": 0.024 * 1e-6,
      },
    }
  )
