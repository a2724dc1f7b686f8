"""DISSL (Dubois et al., NeurIPS 2022) on ImageNet, ResNet-50, batch 2560.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/dissl_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: `:multi_crop` (default), 400 epochs with 2x160 + 4x96 px;
`:two_crops`, 100 epochs with 2x224 px. Epochs follow a comma, as in
`:two_crops,400`. Both have 8192 feature dimensions;
`--config.model.expand_dim=0` removes the expansion.

All values are from the authors' code. Its teacher has a residual connection
between the two layers of width 512, which is not implemented here.

Cost: 400 epochs of ImageNet, 6 crops per image, batch 2560. Needs accelerators:
check the fit with `python -m jssl.preflight` first.
Expected: linear accuracy 74.0% after 400 epochs of multi-crop (published). Not
measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes

VARIANTS = ("multi_crop", "two_crops")


def get_config(arg: str = "multi_crop") -> ConfigDict:
  multi_crop = arg.startswith("multi_crop")
  _, epochs = recipes.variant(arg, VARIANTS, 400 if multi_crop else 100)
  batch_size = 2560
  epoch = recipes.IMAGENET_IMAGES // batch_size
  augment = recipes.simclr_views()
  if multi_crop:
    augment |= {"crop_size_px": 160, "crop_min_area": 0.14}
    augment |= recipes.small_crops(4, max_area=0.14)
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": augment,
      "model": {**recipes.resnet(50), "expand_dim": 8192},
      "objective": {
        "name": "dissl",
        "prototypes": {"number": 16_384},
        "student_temperature": 1.0,
        "teacher_temperature": 0.5,
        "marginal_weight": 2.3,
        "invariance_weight": 0.6,
        "student": {"out_dim": 512},
        "teacher": {"hidden_dims": (512, 2048, 2048, 512)},
      },
      "optim": {
        "name": "lars",
        "learning_rate": 0.3 * batch_size / 256,
        "warmup_steps": 10 * epoch,
        "weight_decay": 1e-6,
      },
    }
  )
