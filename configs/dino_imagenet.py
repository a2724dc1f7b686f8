"""DINO (Caron et al., ICCV 2021) on ImageNet, ViT-S/16, 2x224 + 10x96 px.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/dino_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: `:800` epochs (the default, with the paper's 10 small crops), or any
number over 30. Prototypes are unit vectors; the authors' ViT-S learns their
lengths too; clipping is of the whole gradient, theirs of each parameter's. What
the paper doesn't say is as in the authors' code.
`--config.model.scan_layers=True` compiles one block instead of 12.

Cost: batch 1024, 800 epochs of ImageNet with 12 crops an image; not for a CPU;
compile it for your slice first. Expected: 75.3% linear is what was published
for a ResNet-50; not measured here.
"""

from ml_collections import ConfigDict

from jssl import recipes
from jssl.build import with_defaults


def get_config(arg: str = "800") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 1024
  epoch = recipes.IMAGENET_IMAGES // batch_size
  learning_rate = 5e-4 * batch_size / 256
  return with_defaults(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": {
        **recipes.byol_views(crop_min_area=0.4),
        **recipes.small_crops(10, max_area=0.4),
      },
      "model": {
        **recipes.vit(384, num_heads=6),
        "positions": "learned",
        "drop_path": 0.1,
      },
      "objective": {
        "name": "dino",
        "prototypes": {"number": 65_536, "freeze_steps": epoch},
        "student_temperature": 0.1,
        "teacher_temperature_start": 0.04,
        "teacher_temperature": 0.07,
        "temperature_warmup_steps": 30 * epoch,
        "center_momentum": 0.9,
        "momentum_start": 0.996,
        "projector": {"hidden_dims": (2048, 2048), "out_dim": 256},
      },
      "optim": {
        "name": "adamw",
        "learning_rate": learning_rate,
        "warmup_steps": 10 * epoch,
        "end_fraction": 1e-6 / learning_rate,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "clip_norm": 3.0,
      },
    }
  )
