"""iBOT (Zhou et al., ICLR 2022) on ImageNet, ViT-S/16, 2x224 + 10x96 px.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/ibot_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs above 30, default `:800`.

Differences from the authors' code: prototypes have unit norm instead of learned
norms; gradients are clipped globally instead of per parameter.

Cost: 12 crops per image at batch 1024, and the head for the hidden patches.
Needs accelerators: check the fit with `python -m jssl.preflight` first.
Expected: 77.9% linear and 75.2% kNN accuracy were published. Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "800") -> ConfigDict:
  epochs = recipes.epochs(arg)
  batch_size = 1024
  epoch = recipes.IMAGENET_IMAGES // batch_size
  learning_rate = 5e-4 * batch_size / 256
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": {
        **recipes.byol_views(crop_min_area=0.25),
        **recipes.small_crops(10, max_area=0.25),
      },
      "model": {
        **recipes.vit(384, num_heads=6),
        "positions": "learned",
        "interpolation": "dino",
        "gelu": "erf",
        "drop_path": 0.1,
      },
      "objective": {
        "name": "ibot",
        "prototypes": {"number": 8192, "freeze_steps": epoch},
        "teacher_temperature_start": 0.04,
        "teacher_temperature": 0.07,
        "temperature_warmup_steps": 30 * epoch,
        "momentum_start": 0.996,
        "projector": {"hidden_dims": (2048, 2048), "out_dim": 256},
      },
      "optim": recipes.dino_optim(learning_rate, epoch_steps=epoch),
    }
  )
