"""Fine-tuning of MAE (He et al., CVPR 2022) on ImageNet, ViT-B/16.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/mae_finetune_imagenet.py \
      --config.init_from.workdir=PRETRAINED --workdir=W
    python -m jssl.probe --workdir=W

PRETRAINED is the workdir of configs/mae_imagenet.py. Published weights start
it too, by `--config.init_from.weights`.

Variants: a number of epochs, default `:100`. ViT-L: `:50`, width 1024, depth
24, 16 heads, `--config.optim.learning_rate=4e-3`, layer decay 0.75 and drop
path 0.2.

Differences from the authors' code: no RandAugment; images are mixed one by one,
not by batch; erased boxes have uniform instead of Gaussian noise; positions
stay fixed; the norm after pooling starts from that of the pretraining.

Cost: 100 epochs of ImageNet at batch 1024. Needs accelerators: check the fit
with `python -m jssl.preflight` first.
Expected: 83.6% was published. Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "100") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 1024
  epoch = recipes.IMAGENET_IMAGES // batch_size
  peak = 5e-4 * batch_size / 256
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": {
        **recipes.crop_views(crop_min_area=0.08),
        **recipes.mixed_images(),
      },
      "model": {
        **recipes.vit(768, num_heads=12),
        "positions": "sincos_column",
        "gelu": "erf",
        "pooling": "mean",
        "norm_pooled": True,
        "class_token": True,
        "drop_path": 0.1,
      },
      "objective": {"name": "supervised", "label_smoothing": 0.1},
      "optim": {
        "name": "adamw",
        "learning_rate": peak,
        "warmup_steps": min(5, epochs // 2) * epoch,
        "end_fraction": 1e-6 / peak,
        "weight_decay": 0.05,
        "layer_decay": 0.65,
      },
    }
  )
