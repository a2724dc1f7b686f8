"""More and more augmentation (Huang et al., ICLR 2023): SimCLR on CIFAR-10.

    python -m jssl.data.prepare cifar10
    python -m jssl.train --config=configs/augmentations_cifar10.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: `:crop`, `:blur`, `:gray`, `:colour`, `:flip` (default). Each adds one
operation to the variant before it. Epochs follow a comma, as in `:gray,200`.

Other settings: as in configs/simclr_cifar10.py. Operation strengths are
SimCLR's; the blur kernel of a tenth of the image is our choice.

Cost: as configs/simclr_cifar10.py, per variant.
Expected: kNN accuracy 62.7% (crop), 63.2, 83.5, 88.5 and 89.8% (flip) in the
paper. The order should reproduce. Not measured here.
"""

from typing import Any

from ml_collections import ConfigDict

from jssl.config import recipes

_OPERATIONS: dict[str, dict[str, Any]] = {
  "crop": {"crop_min_area": 0.08},
  "blur": {"blur_probability": (0.5,), "blur_kernel_px": 3},
  "gray": {"grayscale_probability": 0.2},
  "colour": {"jitter_probability": 0.8, **recipes.colour_strength(0.5)},
  "flip": {"flip_probability": 0.5},
}
VARIANTS = tuple(_OPERATIONS)


def get_config(arg: str = "flip") -> ConfigDict:
  name, epochs = recipes.variant(arg, VARIANTS, 1000)
  batch_size = 512
  epoch = recipes.CIFAR10_IMAGES // batch_size
  augment: dict[str, Any] = {"crop_size_px": 32}
  for operation in VARIANTS[: VARIANTS.index(name) + 1]:
    augment |= _OPERATIONS[operation]
  return ConfigDict(
    {
      **recipes.cifar10(epochs=epochs, batch_size=batch_size),
      "augment": augment,
      "model": {
        **recipes.resnet(18, small_images=True),
        **recipes.CIFAR10_PIXELS,
      },
      "objective": {
        "name": "simclr",
        "temperature": 0.5,
        "projector": {"hidden_dims": (512,), "out_dim": 128},
      },
      "optim": {
        "name": "lars",
        "learning_rate": 1.0 * batch_size / 256,
        "warmup_steps": 10 * epoch,
        "weight_decay": 1e-4,
      },
    }
  )
