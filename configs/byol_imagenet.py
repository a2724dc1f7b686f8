"""BYOL (Grill et al., NeurIPS 2020) on ImageNet, ResNet-50, batch 4096.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/byol_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: `:1000` epochs (default), `:300`, or any number above 10.

Learning rate, weight decay and momentum follow the authors' code for 1000, 300
and 100 epochs. The warm-up length is from memory.

Cost: 1000 epochs of ImageNet at batch 4096. Needs accelerators: check the fit
with `python -m jssl.preflight` first.
Expected: linear accuracy 74.3% after 1000 epochs (paper), 68.4% after 100
(published elsewhere). Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes

VARIANTS = ("1000", "300")


def get_config(arg: str = "1000") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 4096
  epoch = recipes.IMAGENET_IMAGES // batch_size
  short = epochs <= 300
  rate = 0.45 if epochs <= 100 else 0.3 if short else 0.2
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": recipes.byol_views(),
      "model": recipes.resnet(50),
      "objective": {
        "name": "byol",
        "momentum_start": 0.99 if short else 0.996,
        "projector": {"hidden_dims": (4096,), "out_dim": 256},
        "predictor": {"hidden_dims": (4096,), "out_dim": 256},
      },
      "optim": {
        "name": "lars",
        "learning_rate": rate * batch_size / 256,
        "warmup_steps": 10 * epoch,
        "weight_decay": 1e-6 if short else 1.5e-6,
      },
    }
  )
