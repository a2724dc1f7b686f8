"""SimSiam and partial collapse (Li et al., ECCV 2022), on Fashion-MNIST.

    python -m jssl.study methods --config=configs/study_collapse.py --workdir=W
    python -m jssl.study forecast --workdir=W

METHODS: ViT widths 8, 16 and 64 with all data and with a fiftieth of it; widths
8 and 64 also in hybrid order. All train on 15,000 images (or 300) for 232 steps
with 4 checkpoints, so that a study can have many seeds. The paper's claims:
features partially collapse if the model is small for the data, collapse AUC
shows it, and other data orders help.

Cost: about a minute per method and seed on one CPU core.
Expected: docs/studies/collapse.md (measured).
"""

from typing import Any

from ml_collections import ConfigDict

from jssl.config import recipes

_EPOCHS, _BATCH_SIZE, _IMAGES = 4, 256, 15_000
_ORDERS: dict[str, dict[str, Any]] = {
  "all": {"name": "iid"},
  "fiftieth": {"name": "subset", "fraction": 0.02},
  "hybrid": {"name": "hybrid", "switch_epoch": 2},
}
METHODS = {
  f"w{width}_{order}": (width, _ORDERS[order])
  for width, orders in [
    (8, ("all", "fiftieth", "hybrid")),
    (16, ("all", "fiftieth")),
    (64, ("all", "fiftieth", "hybrid")),
  ]
  for order in orders
}


def get_config(arg: str = "w64_all") -> ConfigDict:
  name, epochs = recipes.variant(arg, METHODS, _EPOCHS)
  width, order = METHODS[name]
  run = recipes.fashion_mnist(epochs=1, batch_size=_BATCH_SIZE)
  epoch = _IMAGES // _BATCH_SIZE
  return ConfigDict(
    {
      **run,
      "data": {**run["data"], "split": "train[:25%]"},
      "order": order,
      "model": {**run["model"], "width": width, "depth": 2},
      "objective": {
        "name": "simsiam",
        "projector": {"hidden_dims": (512, 512), "out_dim": 512},
        "predictor": {"hidden_dims": (128,), "out_dim": 512},
      },
      "optim": {
        "name": "adamw",
        "learning_rate": 3e-3,
        "warmup_steps": epoch,
        "weight_decay": 0.05,
        "b2": 0.98,
        "clip_norm": 3.0,
      },
      "train": {"steps": epoch * epochs},
      "checkpoint": {
        "every_steps": epoch,
      },
      "log": {"every_steps": epoch},
      "probe": {"probes": ("linear",), "label_fractions": (), "seeds": 1},
    }
  )
