"""SupCon (Khosla et al., NeurIPS 2020) on ImageNet, ResNet-50, batch 6144.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/supcon_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Supervised: uses the labels of the training images.

Variants: a number of epochs above 10, default `:350` (from memory).

Temperature, head and batch size are the paper's. Augmentation (AutoAugment in
the paper, from memory) and optimizer are those of configs/simclr_imagenet.py,
so that both methods compare.

Cost: 350 epochs of ImageNet at batch 6144. Needs accelerators: check the fit
with `python -m jssl.preflight` first.
Expected: unknown. Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "350") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 6144
  epoch = recipes.IMAGENET_IMAGES // batch_size
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": recipes.simclr_views(),
      "model": recipes.resnet(50),
      "objective": {
        "name": "supcon",
        "temperature": 0.1,
        "projector": {"hidden_dims": (2048,), "out_dim": 128, "norm": False},
      },
      "optim": {
        "name": "lars",
        "learning_rate": 0.3 * batch_size / 256,
        "warmup_steps": 10 * epoch,
        "weight_decay": 1e-6,
      },
    }
  )
