"""I-JEPA (Assran et al., CVPR 2023) on ImageNet, ViT-H/14, four targets.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/ijepa_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs, default `:300`.

Differences from the authors' code: the warm-up starts at 0 instead of a fifth
of the peak; the context has a static length (see `jssl.objectives.IJEPA`);
the predictor approximates the GELU by tanh.

Cost: a quarter of the tokens in the backbone, all of them in the teacher, and
four sequences per image in the predictor. Parameters are sharded over 8
devices. Needs accelerators: check the fit with `python -m jssl.preflight`
first.
Expected: 79.3% linear accuracy was published. Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "300") -> ConfigDict:
  epochs = recipes.epochs(arg)
  batch_size = 2048
  epoch = recipes.IMAGENET_IMAGES // batch_size
  learning_rate = 1e-3
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": {
        **recipes.crop_views(crop_min_area=0.3),
        "flip_probability": 0.0,
      },
      "model": {
        **recipes.vit(1280, num_heads=16),
        "patch_size_px": 14,
        "depth": 32,
        "pooling": "mean",
        "positions": "sincos_column",
        "gelu": "erf",
        "scan_layers": True,
      },
      "mesh": {"fsdp": 8},
      "objective": {
        "name": "ijepa",
        "num_targets": 4,
        "predictor": {
          "width": 384,
          "depth": 12,
          "num_heads": 16,
          "dtype": "bfloat16",
        },
        "momentum_start": 0.996,
      },
      "optim": {
        "name": "adamw",
        "learning_rate": learning_rate,
        "warmup_steps": min(40, epochs // 2) * epoch,
        "end_fraction": 1e-6 / learning_rate,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
      },
    }
  )
