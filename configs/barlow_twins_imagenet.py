"""Barlow Twins (Zbontar et al., ICML 2021) on ImageNet, ResNet-50, batch 2048.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/barlow_twins_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs above 10, default `:1000`.

Optimizer: from the authors' code, which trains biases and norms with 0.024
times the learning rate. LARS does not adapt biases and norms, so `scale=0.024`
on the loss is equivalent.

Cost: 1000 epochs of ImageNet at batch 2048. Needs accelerators: check the fit
with `python -m jssl.preflight` first.
Expected: linear accuracy 73.3% after 1000 epochs, 67.2% after 100 (published).
Not measured here.
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
        # 1e-6 in the authors' code, times `scale`.
        "weight_decay": 0.024 * 1e-6,
      },
    }
  )
