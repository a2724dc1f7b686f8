"""MAE (He et al., CVPR 2022) on ImageNet, ViT-B/16, 75% of patches hidden.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/mae_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs, default `:800`. `--config.model.width=1024
--config.model.depth=24 --config.model.num_heads=16` is ViT-L.

Differences from the authors' code: linear layers start with LeCun instead of
Xavier initialisation; class and mask tokens are not decayed; the decoder
approximates the GELU by tanh.

Cost: a quarter of the tokens in the backbone, all of them in a narrow decoder.
Needs accelerators: check the fit with `python -m jssl.preflight` first.
Expected: 68.0% linear accuracy was published for 1600 epochs. Not measured
here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "800") -> ConfigDict:
  epochs = recipes.epochs(arg)
  batch_size = 4096
  epoch = recipes.IMAGENET_IMAGES // batch_size
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": recipes.crop_views(crop_min_area=0.2),
      "model": {
        **recipes.vit(768, num_heads=12),
        "positions": "sincos_column",
        "gelu": "erf",
      },
      "objective": {
        "name": "mae",
        "mask_ratio": 0.75,
        "decoder": {
          "width": 512,
          "depth": 8,
          "num_heads": 16,
          "dtype": "bfloat16",
        },
      },
      "optim": {
        "name": "adamw",
        "learning_rate": 1.5e-4 * batch_size / 256,
        "warmup_steps": min(40, epochs // 2) * epoch,
        "weight_decay": 0.05,
        "b2": 0.95,
      },
    }
  )
