"""CISSL (Dubois et al., NeurIPS 2022) on Tiny ImageNet, ResNet-18, batch 512.

In the unpacked tiny-imagenet-200, where `test` has no labels and `val` no
folders of classes:

    mv test ../tiny-imagenet-test
    while read image label _; do
      mkdir -p val/$label && mv val/images/$image val/$label/
    done < val/val_annotations.txt && rmdir val/images
    python -m jssl.data.prepare folder --source . --name tiny_imagenet

Then:

    python -m jssl.train --config=configs/cissl_tiny_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants, with epochs after a comma. Each of the first four has what the one
before has:

- `:base` (the default), 300 epochs (the authors' script): the student's head is
  linear, for linear probes;
- `:dim`, 2048 dimensions instead of 512;
- `:epochs`, 1000 of them;
- `:coarse`, augmentation of strength 2;
- `:mlp`, base with MLPs of two layers of 2048 on both sides, for MLP probes.

Blur is in coarse only; its kernel is a tenth of the image, made odd. Adam's
decay is L2, as in their code.

Cost: 300 epochs at 64 px; not for a CPU. Expected: 45.8% linear for base, 47.6
for dim, 48.7 for epochs, 51.2 for coarse; SimCLR 45.2 (the authors' rerun, in
the README of their code); not measured here.
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
