"""LeJEPA (Balestriero & LeCun, 2025) on ImageNet, ViT-B/16, 2x224 + 6x96 px.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/lejepa_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: `:100` epochs (the default), or any number over 5. Augmentation,
epochs and AdamW are those of the authors' repository; of its sizes there is
none with patches of 16 px, so the model is ours, and small crops have 96 px
instead of 98 and the blur of large ones, but are never solarized. Batch,
warm-up and projector are ours too.

Cost: batch 1024, 100 epochs of ImageNet with 8 crops an image; not for a CPU;
compile it for your slice first. Expected: not measured here.
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
