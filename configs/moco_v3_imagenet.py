"""MoCo v3 (Chen et al., ICCV 2021) on ImageNet, ViT-S/16, batch 4096.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/moco_v3_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants, with epochs after a comma, as in `:resnet50,100`:

- `:vit_s` (default): 300 epochs. The patch embedding is trained; the paper
  freezes it at its random initialisation.
- `:resnet50`: 1000 epochs. For 300 epochs the authors use
  `--config.objective.momentum_start=0.99 --config.optim.weight_decay=1e-6`.
- `:v2`: MoCo v2 (Chen et al., 2020), ResNet-50, a queue, batch 256, 200 epochs.
  Batch statistics are global instead of over shuffled sub-batches. The loss is
  MoCo v3's: both directions, times 2T. Weight decay, width and augmentation are
  from memory.

Cost: 300 or 1000 epochs of ImageNet at batch 4096. Needs accelerators: check
the fit with `python -m jssl.preflight` first.
Expected: unknown. Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes

VARIANTS = ("vit_s", "resnet50", "v2")


def get_config(arg: str = "vit_s") -> ConfigDict:
  name = arg.partition(",")[0]
  default = {"resnet50": 1000, "v2": 200}.get(name, 300)
  name, epochs = recipes.variant(arg, VARIANTS, default)
  batch_size = 256 if name == "v2" else 4096
  epoch = recipes.IMAGENET_IMAGES // batch_size
  match name:
    case "vit_s":
      augment = recipes.byol_views()
      model = recipes.vit(384, num_heads=12)
      objective = {
        "temperature": 0.2,
        "momentum_start": 0.99,
        "projector": {"hidden_dims": (4096, 4096), "out_dim": 256},
        "predictor": {"hidden_dims": (4096,), "out_dim": 256},
      }
      optim = {
        "name": "adamw",
        "learning_rate": 1.5e-4 * batch_size / 256,
        "warmup_steps": 40 * epoch,
        "weight_decay": 0.1,
      }
    case "resnet50":
      augment = recipes.byol_views(crop_min_area=0.2)
      model = recipes.resnet(50)
      objective = {
        "temperature": 1.0,
        "momentum_start": 0.996,
        "projector": {"hidden_dims": (4096,), "out_dim": 256},
        "predictor": {"hidden_dims": (4096,), "out_dim": 256},
      }
      optim = {
        "name": "lars",
        "learning_rate": 0.3 * batch_size / 256,
        "warmup_steps": 10 * epoch,
        "weight_decay": 1.5e-6,
      }
    case _:
      augment = recipes.moco_views()
      model = recipes.resnet(50)
      objective = {
        "temperature": 0.2,
        "momentum_start": 0.999,
        "momentum_end": 0.999,
        "queue_size": 65_536,
        "projector": {
          "hidden_dims": (2048,),
          "out_dim": 128,
          "norm": False,
          "last_norm": "none",
        },
        "predictor": {"hidden_dims": (), "out_dim": 0, "last_norm": "none"},
      }
      optim = {"name": "sgd", "learning_rate": 0.03, "weight_decay": 1e-4}
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": augment,
      "model": model,
      "objective": {"name": "moco_v3", **objective},
      "optim": optim,
    }
  )
