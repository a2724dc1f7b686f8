"""DINO (Caron et al., ICCV 2021) on ImageNet, ViT-S/16, 2x224 + 10x96 px.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/dino_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants, with more than 30 epochs after a comma, as in `:vit_s,100`:

- `:vit_s` (default): 800 epochs and 10 small crops, as in the paper.
- `:vit_l`: ViT-L/16, 250 epochs, 8 small crops, parameters sharded over 8
  devices. A size for capacity planning: the paper has no ViT-L. It uses ViT-S
  hyper-parameters with a higher drop path rate, and nothing was tuned.

Differences from the authors' code: prototypes of ViT-S have unit norm instead
of learned norms; gradients are clipped globally instead of per parameter.
Settings missing from the paper follow the code. `:vit_l` compiles one block for
all layers; `--config.model.scan_layers=True` does so for ViT-S.

Cost: 12 or 10 crops per image at batch 1024. Needs accelerators: check the fit
with `python -m jssl.preflight` first.
Expected: 77.0% linear accuracy of ViT-S/16 after 800 epochs (published). Not
measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes

VARIANTS = ("vit_s", "vit_l")


def get_config(arg: str = "vit_s") -> ConfigDict:
  large = arg.startswith("vit_l")
  _, epochs = recipes.variant(arg, VARIANTS, 250 if large else 800)
  batch_size = 1024
  epoch = recipes.IMAGENET_IMAGES // batch_size
  learning_rate = 5e-4 * batch_size / 256
  model = recipes.vit(384, num_heads=6)
  if large:
    model = recipes.vit(1024, num_heads=16)
    model |= {"depth": 24, "scan_layers": True}
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": {
        **recipes.byol_views(crop_min_area=0.4),
        **recipes.small_crops(8 if large else 10, max_area=0.4),
      },
      "model": {
        **model,
        "positions": "learned",
        "drop_path": 0.4 if large else 0.1,
      },
      "mesh": {"fsdp": 8 if large else 1},
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
      "optim": recipes.dino_optim(learning_rate, epoch_steps=epoch),
    }
  )
