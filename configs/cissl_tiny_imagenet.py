"""CISSL (Dubois et al., NeurIPS 2022) on Tiny ImageNet, ResNet-18, batch 512.

Prepare the data inside the unpacked tiny-imagenet-200. Its `test` has no labels
and its `val` has no class folders, so both are moved first:

    mv test ../tiny-imagenet-test
    while read image label _; do
      mkdir -p val/$label && mv val/images/$image val/$label/
    done < val/val_annotations.txt && rmdir val/images
    python -m jssl.data.prepare folder --source . --name tiny_imagenet

Then train and probe:

    python -m jssl.train --config=configs/cissl_tiny_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants:

- `:base` (default): 300 epochs, as in the authors' script. The student head is
  linear, for linear probes.
- `:dim`: base with 2048 feature dimensions instead of 512.
- `:epochs`: dim with 1000 epochs.
- `:coarse`: epochs with augmentation strength 2.
- `:mlp`: base with two-layer MLP heads of width 2048, for MLP probes.

Epochs follow a comma, as in `:dim,100`. Only coarse blurs; its kernel is a
tenth of the image, rounded to odd. Adam's decay is L2, as in the authors' code.

Cost: 300 epochs at 64 px; too slow on a CPU.
Expected: linear accuracy 45.8% (base), 47.6% (dim), 48.7% (epochs), 51.2%
(coarse); SimCLR has 45.2% (rerun in the README of the authors' code). Not
measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes

VARIANTS = ("base", "dim", "epochs", "coarse", "mlp")

_MLP = {"hidden_dims": (2048, 2048), "out_dim": 128}


def get_config(arg: str = "base") -> ConfigDict:
  name = arg.partition(",")[0]
  long = name in ("epochs", "coarse")
  name, epochs = recipes.variant(arg, VARIANTS, 1000 if long else 300)
  batch_size = 512
  epoch = recipes.TINY_IMAGENET_IMAGES // batch_size
  return ConfigDict(
    {
      **recipes.tiny_imagenet(epochs=epochs, batch_size=batch_size),
      "augment": recipes.coarse_views(2.0 if name == "coarse" else 1.0),
      "model": {
        **recipes.resnet(18, small_images=True),
        "small_max_pool": True,
        "expand_dim": 2048 if long or name == "dim" else 0,
      },
      "objective": {
        "name": "cissl",
        "temperature": 0.07,
        "student": _MLP if name == "mlp" else {"hidden_dims": ()},
        "teacher": _MLP if name == "mlp" else {"hidden_dims": (1024,)},
      },
      "optim": {
        "name": "adam",
        "learning_rate": 2e-3,
        "warmup_steps": 10 * epoch,
        "weight_decay": 1e-6,
      },
    }
  )
