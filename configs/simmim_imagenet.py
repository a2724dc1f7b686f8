"""SimMIM (Xie et al., CVPR 2022) on ImageNet, ViT-B/16, 60% of units hidden.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/simmim_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs, default `:800`.

Differences from the authors' code: fixed positions instead of relative biases;
a cosine schedule instead of one step; layers of branches are not rescaled.

Cost: all tokens in the backbone, and a linear layer. Needs accelerators: check
the fit with `python -m jssl.preflight` first.
Expected: 83.8% after fine-tuning was published; no linear accuracy. Not
measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "800") -> ConfigDict:
  epochs = recipes.epochs(arg)
  batch_size = 2048
  epoch = recipes.IMAGENET_IMAGES // batch_size
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": recipes.crop_views(crop_min_area=0.67),
      "model": {
        **recipes.vit(768, num_heads=12),
        "pooling": "mean",
        "gelu": "erf",
        "qkv_bias": "qv",
        "layer_scale": 0.1,
        "drop_path": 0.1,
      },
      "objective": {"name": "simmim", "mask_ratio": 0.6, "mask_unit_px": 32},
      "optim": {
        "name": "adamw",
        "learning_rate": 1e-4 * batch_size / 512,
        "warmup_steps": min(10, epochs // 2) * epoch,
        "weight_decay": 0.05,
        "clip_norm": 5.0,
      },
    }
  )
