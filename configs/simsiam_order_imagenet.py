"""SimSiam in other orders (Li et al., ECCV 2022) on ImageNet, ResNet-18.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/simsiam_order_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants, with epochs after a comma; all cost the same, and the cosine goes on:

- `:iid` (the default), 100 epochs of the whole set;
- `:continual`, in each epoch another hundredth of it;
- `:hybrid`, continual for 40 epochs, then iid;
- `:accumulate`, in each epoch a hundredth more;
- `:subset`, a fixed part; how large is ours, `--config.order.fraction=0.1`.

The batch is that of the authors' commands, the augmentation SimSiam's.

Cost: batch 256, 100 epochs of ImageNet; not for a CPU; compile it for your
slice first. Expected: hybrid is up to 18 points of the linear probe better than
iid, which collapses in part (the paper's claim); not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes

VARIANTS = ("iid", "continual", "hybrid", "accumulate", "subset")


def get_config(arg: str = "iid") -> ConfigDict:
  name, epochs = recipes.variant(arg, VARIANTS, 100)
  batch_size = 256
  order: dict[str, str | int | float] = {"name": name}
  if name == "hybrid":
    order["switch_epoch"] = 40 * epochs // 100
  if name == "subset":
    order["fraction"] = 0.1
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "order": order,
      "augment": recipes.moco_views(),
      "model": recipes.resnet(18),
      "objective": {
        "name": "simsiam",
        "projector": {"hidden_dims": (512, 512), "out_dim": 2048},
        "predictor": {"hidden_dims": (512,), "out_dim": 2048},
        "constant_predictor_rate": True,
      },
      "optim": {
        "name": "sgd",
        "learning_rate": 0.05 * batch_size / 256,
        "weight_decay": 1e-4,
      },
    }
  )
