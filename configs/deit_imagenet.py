"""DeiT (Touvron et al., ICML 2021) on ImageNet: supervised ViT-S/16 and B/16.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/deit_imagenet.py:small --workdir=W
    python -m jssl.probe --workdir=W

Variants: `:small` (default) and `:base`. Epochs follow a comma, as in
`:base,150`; default 300. As in DeiT an epoch has three views of a third of the
images (repeated augmentation).

Differences from the authors' code: no RandAugment; 352 images of three views
instead of 1024 views; images are mixed one by one, not by batch; erased boxes
have uniform instead of Gaussian noise; linear layers start with LeCun
initialisation and the classifier from 2e-5 instead of 0.02.

Cost: 300 epochs of ImageNet. Needs accelerators: check the fit with
`python -m jssl.preflight` first.
Expected: 79.9% (small) and 81.8% (base) were published. Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes

VARIANTS = ("small", "base")
_VIEWS = 3


def get_config(arg: str = "small") -> ConfigDict:
  size, epochs = recipes.variant(arg, VARIANTS, 300)
  batch_size = 352
  epoch = recipes.IMAGENET_IMAGES // (batch_size * _VIEWS)
  peak = 5e-4 * batch_size * _VIEWS / 512
  width, num_heads = {"small": (384, 6), "base": (768, 12)}[size]
  return ConfigDict(
    {
      **recipes.imagenet(epochs=1, batch_size=batch_size),
      "train": {"steps": epochs * epoch},
      "augment": {
        **recipes.crop_views(crop_min_area=0.08),
        **recipes.mixed_images(),
      },
      "model": {
        **recipes.vit(width, num_heads=num_heads),
        "positions": "learned",
        "class_position": True,
        "gelu": "erf",
        "drop_path": 0.1,
      },
      "objective": {
        "name": "supervised",
        "label_smoothing": 0.1,
        "num_views": _VIEWS,
      },
      "optim": {
        "name": "adamw",
        "learning_rate": peak,
        "warmup_steps": min(5, epochs // 2) * epoch,
        "end_fraction": 1e-5 / peak,
        "weight_decay": 0.05,
      },
    }
  )
