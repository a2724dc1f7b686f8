"""DINOv2 (Oquab et al., 2023) on ImageNet, ViT-L/16, 2x224 + 8x96 px.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/dinov2_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants, with more than 30 epochs after a comma, as in `:rope,100`:

- `:learned` (default): the authors' short ImageNet-1k run, with learned
  positions, a shared head and centring by a moving average; 100 epochs.
- `:rope`: after the ImageNet-1k run of DINOv3 (Siméoni et al., 2025), with
  rotary positions, separate heads, plain prototypes and Sinkhorn centring.

Differences from the authors' code: prototypes of `:learned` have unit norm
instead of learned norms; drop path is per image; gradients are clipped globally
instead of per module; which crops have hidden patches is drawn for each crop.

Cost: 10 crops per image at batch 2048, and the head for the hidden patches.
Parameters are sharded over 8 devices. Needs accelerators: check the fit with
`python -m jssl.preflight` first.
Expected: 82.9% linear and 81.6% kNN accuracy were published for the authors'
short run, 83.3% and 82.2% for DINOv3's. Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes

VARIANTS = ("learned", "rope")


def get_config(arg: str = "learned") -> ConfigDict:
  variant, epochs = recipes.variant(arg, VARIANTS, 100)
  rope = variant == "rope"
  batch_size = 2048
  # The authors count epochs of 1250 steps.
  epoch = 1250
  learning_rate = 4e-3 * (batch_size / 1024) ** 0.5
  objective = {
    "name": "dinov2",
    "prototypes": {"number": 65_536, "freeze_steps": epoch},
    "teacher_temperature_start": 0.04,
    "teacher_temperature": 0.07,
    "temperature_warmup_steps": 30 * epoch,
    "momentum_start": 0.992,
    "koleo_weight": 0.1,
    "projector": {"hidden_dims": (2048, 2048), "out_dim": 256},
  }
  if rope:
    plain = {"number": 65_536, "freeze_steps": epoch, "norm": "none"}
    objective |= {
      "centering": "sinkhorn",
      "shared_head": False,
      "prototypes": plain,
      "patch_prototypes": plain,
    }
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": {
        **recipes.byol_views(crop_min_area=0.32),
        **recipes.small_crops(8, max_area=0.32),
      },
      "model": {
        **recipes.vit(1024, num_heads=16),
        "depth": 24,
        "positions": "rope" if rope else "learned",
        **(
          {"rope_rescale": 2.0, "qkv_bias": "qv"}
          if rope
          else {"interpolation": "dino"}
        ),
        "layer_scale": 1e-5,
        "drop_path": 0.3,
        "drop_path_uniform": True,
        "gelu": "erf",
        "scan_layers": True,
      },
      "mesh": {"fsdp": 8},
      "objective": objective,
      "optim": {
        **recipes.dino_optim(learning_rate, epoch_steps=epoch),
        "layer_decay": 0.9,
        "patch_embed_rate": 0.2,
      },
      "train": {"steps": epochs * epoch},
    }
  )
