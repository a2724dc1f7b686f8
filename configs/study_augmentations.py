r"""Stacks and pairs of augmentations (Huang et al., ICLR 2023), Fashion-MNIST.

    python -m jssl.study methods --config=configs/study_augmentations.py \
      --workdir=W --diagnostics
    python -m jssl.study concentration --workdir=W

METHODS: a growing stack (crop, flip, colour, blur) and all pairs of the four
operations. Names join the operations. SimCLR for half an epoch. The paper's
claim: the more an augmentation concentrates the classes, the smaller the error
of the nearest class mean.

Cost: two to four minutes per method on two CPU cores.
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
_STACKS = [tuple(_OPERATIONS)[:number] for number in (1, 2, 3, 4)]
_PAIRS = [pair for pair in combinations(_OPERATIONS, 2) if pair not in _STACKS]
METHODS = {"_".join(stack): stack for stack in (*_STACKS, *_PAIRS)}


def get_config(arg: str = "crop_flip_colour_blur") -> ConfigDict:
  name, epochs = recipes.variant(arg, tuple(METHODS), 1)
  run = recipes.fashion_mnist(epochs=epochs, batch_size=256)
  augment: dict[str, Any] = {"crop_size_px": 28, "crop_min_area": 1.0}
  for operation in METHODS[name]:
    augment |= _OPERATIONS[operation]
  if "crop" not in METHODS[name]:
    # Without a crop, views show the whole image.
    augment |= {"crop_ratio_min": 1.0, "crop_ratio_max": 1.0}
  steps = run["train"]["steps"] // 2
  return ConfigDict(
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
        "warmup_steps": 25,
        "weight_decay": 0.05,
        "b2": 0.98,
        "clip_norm": 3.0,
      },
      "train": {"steps": steps},
      "checkpoint": {"every_steps": steps},
      "log": {"every_steps": 26},
      "probe": {
        "probes": ("linear", "knn"),
        "label_fractions": (),
        "seeds": 1,
      },
    }
  )
