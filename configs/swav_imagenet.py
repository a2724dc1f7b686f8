"""SwAV (Caron et al., NeurIPS 2020) on ImageNet, ResNet-50, 2x224 + 6x96 px.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/swav_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs above 10, default `:800`.

All values are from the authors' script for 800 epochs, whose learning rate is
4.8. The script also applies weight decay and LARS to biases and norms; jssl
does not.

Cost: 800 epochs of ImageNet, 8 crops per image, batch 4096. Needs accelerators:
check the fit with `python -m jssl.preflight` first.
Expected: linear accuracy 74.9% after 800 epochs (published). Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "800") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 4096
  epoch = recipes.IMAGENET_IMAGES // batch_size
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": {
        **recipes.simclr_views(crop_min_area=0.14),
        **recipes.small_crops(6, max_area=0.14),
      },
      "model": recipes.resnet(50),
      "objective": {
        "name": "swav",
        "prototypes": {"number": 3000, "freeze_steps": epoch},
        "temperature": 0.1,
        "epsilon": 0.05,
        "iterations": 3,
        "projector": {"hidden_dims": (2048,), "out_dim": 128},
      },
      "optim": {
        "name": "lars",
        "learning_rate": 0.3 * batch_size / 256,
        "warmup_steps": 10 * epoch,
        "end_fraction": 0.001,
        "weight_decay": 1e-6,
      },
    }
  )
