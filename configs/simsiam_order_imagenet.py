"""SimSiam with other data orders (Li et al., ECCV 2022), ImageNet, ResNet-18.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/simsiam_order_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants, with epochs after a comma. All have the same cost, and one cosine
schedule over the whole run:

- `:iid` (default): 100 epochs of the whole data set.
- `:continual`: each epoch sees another hundredth of the data.
- `:hybrid`: continual for 40 epochs, then iid.
- `:accumulate`: each epoch adds a hundredth of the data.
- `:subset`: a fixed subset. Its size is our choice,
  `--config.order.fraction=0.1`.

The batch size is from the authors' commands, the augmentation is SimSiam's.

Cost: 100 epochs of ImageNet at batch 256. Needs accelerators: check the fit
with `python -m jssl.preflight` first.
Expected: hybrid is up to 18 points (linear) better than iid, which partially
collapses (paper). Not measured here.
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
