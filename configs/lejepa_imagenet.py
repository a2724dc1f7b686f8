"""LeJEPA (Balestriero & LeCun, 2025) on ImageNet, ViT-B/16, 2x224 + 6x96 px.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/lejepa_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs above 5, default `:100`.

Augmentation, epochs and AdamW are from the authors' repository. Our choices:
the model (the repository has no model with 16 px patches), batch size, warm-up,
projector, and small crops of 96 px instead of 98. Small crops are blurred like
large crops but never solarized.

Cost: 100 epochs of ImageNet, 8 crops per image, batch 1024. Needs accelerators:
check the fit with `python -m jssl.preflight` first.
Expected: unknown. Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "100") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 1024
  epoch = recipes.IMAGENET_IMAGES // batch_size
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": {
        **recipes.byol_views(crop_min_area=0.3),
        "blur_probability": (0.5,),
        "solarize_probability": (0.2,),
        **recipes.small_crops(6, max_area=0.3),
      },
      "model": recipes.vit(768, num_heads=12),
      "objective": {
        "name": "lejepa",
        "sigreg_weight": 0.05,
        "num_slices": 1024,
        "projector": {"hidden_dims": (2048, 2048), "out_dim": 64},
      },
      "optim": {
        "name": "adamw",
        "learning_rate": 5e-4,
        "warmup_steps": 5 * epoch,
        "end_fraction": 0.001,
        "weight_decay": 0.05,
      },
    }
  )
