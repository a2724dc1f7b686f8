"""NNCLR (Dwibedi et al., ICCV 2021) on ImageNet, ResNet-50, batch 4096.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/nnclr_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs above 10, default `:1000`.

Warm-up and augmentation (SimCLR's) are from memory.

Cost: 1000 epochs of ImageNet at batch 4096. Needs accelerators: check the fit
with `python -m jssl.preflight` first.
Expected: unknown. Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "1000") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 4096
  epoch = recipes.IMAGENET_IMAGES // batch_size
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": recipes.simclr_views(),
      "model": recipes.resnet(50),
      "objective": {
        "name": "nnclr",
        "temperature": 0.1,
        "queue_size": 98_304,
        "projector": {"hidden_dims": (2048, 2048), "out_dim": 256},
        "predictor": {"hidden_dims": (4096,), "out_dim": 256},
      },
      "optim": {
        "name": "lars",
        "learning_rate": 0.3 * batch_size / 256,
        "warmup_steps": 10 * epoch,
        "weight_decay": 1e-6,
      },
    }
  )
