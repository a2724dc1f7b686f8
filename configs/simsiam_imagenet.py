"""SimSiam (Chen & He, CVPR 2021) on ImageNet, ResNet-50, batch 512.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/simsiam_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs, default `:100`.

Cost: 100 epochs of ImageNet at batch 512. Needs accelerators: check the fit
with `python -m jssl.preflight` first.
Expected: linear accuracy 68.1% after 100 epochs (published). Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "100") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 512
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": recipes.moco_views(),
      "model": recipes.resnet(50),
      "objective": {
        "name": "simsiam",
        "projector": {"hidden_dims": (2048, 2048), "out_dim": 2048},
        "predictor": {"hidden_dims": (512,), "out_dim": 2048},
      },
      "optim": {
        "name": "sgd",
        "learning_rate": 0.05 * batch_size / 256,
        "weight_decay": 1e-4,
      },
    }
  )
