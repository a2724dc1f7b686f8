"""SimCLR (Chen et al., ICML 2020) on a prepared folder of images, small ViT.

    jssl prepare folder --source=DIR --name=NAME
    jssl train --config=folder:NAME --workdir=W
    jssl probe --workdir=W
    jssl report W

Variants: the name of a prepared set. `jssl prepare` prints the second command
with the mean and deviation of the set's pixels.

Three sizes must fit together: images are read as squares of
`data.image_size_px`, views are crops of `augment.crop_size_px`, and
`model.patch_size_px` divides the crop. `jssl configs copy folder` copies this
file for changes.

Cost: 300 steps take minutes on two CPU cores.
Expected: depends on the images. docs/own_images.md has an example.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "my_images") -> ConfigDict:
  return ConfigDict(
    {
      "data": {
        "name": arg,
        "batch_size": 128,
        # Larger than the crop, so that crops stay sharp.
        "image_size_px": 80,
      },
      "augment": {
        "crop_size_px": 64,
        "crop_min_area": 0.3,
        "flip_probability": 0.5,
        "jitter_probability": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
      },
      "model": {
        "name": "vit",
        "patch_size_px": 8,
        "width": 128,
        "depth": 3,
        "num_heads": 4,
        "mean": (0.5,),
        "std": (0.25,),
      },
      "objective": {
        "name": "simclr",
        "temperature": 0.2,
        "projector": {"hidden_dims": (512,), "out_dim": 128},
      },
      "optim": {
        "name": "adamw",
        "learning_rate": 1e-3,
        "warmup_steps": 30,
        "weight_decay": 0.05,
        "clip_norm": 3.0,
      },
      "train": {"steps": 300},
      "checkpoint": {"every_steps": 30},
      "log": {"every_steps": 20},
      "probe": {"label_fractions": ()},
    }
  )
