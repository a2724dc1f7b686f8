"""SimCLR (Chen et al., ICML 2020) on generated patterns, for CPUs.

    bash launch/quickstart.sh

Cost: minutes on two CPU cores, with probes and report; the README has timings.
Expected: linear, kNN and MLP accuracy far above raw pixels and the random
backbone.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
  if arg:
    raise ValueError(f"unknown variant {arg!r}; this config has none")
  steps = 240
  return ConfigDict(
    {
      "data": {
        "name": "patterns",
        "batch_size": 256,
        "image_size_px": 32,
      },
      "augment": {
        "crop_size_px": 32,
        "crop_min_area": 0.4,
        "jitter_probability": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
        "grayscale_probability": 0.2,
      },
      "model": {
        "name": "vit",
        "patch_size_px": 8,
        "width": 128,
        "depth": 3,
        "num_heads": 4,
        "zero_init_residual": True,
        "mean": (0.5,),
        "std": (0.25,),
      },
      "objective": {
        "name": "simclr",
        "temperature": 0.2,
        "projector": {"hidden_dims": (256,), "out_dim": 128},
      },
      "optim": {
        "name": "adamw",
        "learning_rate": 3e-3,
        "warmup_steps": 40,
        "weight_decay": 0.05,
        "b2": 0.98,
      },
      "train": {"steps": steps},
      "checkpoint": {"every_steps": steps // 5},
      "log": {"every_steps": 20},
      # Short, so that the probes take less time than the training.
      "probe": {
        "label_fractions": (0.1,),
        "minibatch_epochs": 3,
        "minibatch_min_steps": 100,
        "knn_neighbours": (5, 20),
      },
    }
  )
