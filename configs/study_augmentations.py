r"""Combinations of augmentations (Huang et al., ICLR 2023), Fashion-MNIST.

    python -m jssl.study methods --config=configs/study_augmentations.py \
      --workdir=W --diagnostics
    python -m jssl.study concentration --workdir=W

METHODS: all combinations of crop, flip, colour and blur. Names join the
operations. SimCLR, made small for many seeds (`recipes.for_many_seeds`). The
paper's claim: the more an augmentation concentrates the classes, the smaller
the error of the nearest class mean.

Cost: about a minute per method and seed on one CPU core.
Expected: docs/studies/augmentations.md (measured).
"""

from itertools import combinations
from typing import Any

from ml_collections import ConfigDict

from jssl.config import recipes

_OPERATIONS: dict[str, dict[str, Any]] = {
  "crop": {"crop_min_area": 0.2},
  "flip": {"flip_probability": 0.5},
  "colour": {"jitter_probability": 0.8, "brightness": 0.6, "contrast": 0.6},
  "blur": {"blur_probability": (0.5,), "blur_kernel_px": 5},
}
METHODS = {
  "_".join(operations): operations
  for number in range(1, len(_OPERATIONS) + 1)
  for operations in combinations(_OPERATIONS, number)
}


def get_config(arg: str = "crop_flip_colour_blur") -> ConfigDict:
  operations = METHODS[recipes.known(arg, METHODS)]
  run = recipes.fashion_mnist(epochs=1, batch_size=256)
  augment: dict[str, Any] = {"crop_size_px": 28, "crop_min_area": 1.0}
  for operation in operations:
    augment |= _OPERATIONS[operation]
  if "crop" not in operations:
    # Without a crop, views show the whole image.
    augment |= {"crop_ratio_min": 1.0, "crop_ratio_max": 1.0}
  config = ConfigDict(
    {
      **run,
      "augment": augment,
      "objective": {
        "name": "simclr",
        "temperature": 0.1,
        "projector": {"hidden_dims": (512,), "out_dim": 128},
      },
      "optim": {
        "name": "adamw",
        "learning_rate": 3e-3,
        "weight_decay": 0.05,
        "b2": 0.98,
        "clip_norm": 3.0,
      },
      "log": {"every_steps": 29},
      "probe": {"probes": ("linear", "knn"), "label_fractions": ()},
    }
  )
  return recipes.for_many_seeds(config)
