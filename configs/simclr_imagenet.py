"""SimCLR (Chen et al., ICML 2020) on ImageNet, ResNet-50, batch 4096.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/simclr_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs above 10, default `:100`, as in
`--config=configs/simclr_imagenet.py:800`.

Cost: 791 GFLOP per step and chip on 256 TPU v5e chips (compiled for
`v5e:16x16`, not run).
Expected: linear accuracy 64.4% after 100 epochs, 69.3% after 1000 (paper). Not
measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "100") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 4096
  epoch = recipes.IMAGENET_IMAGES // batch_size
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": recipes.simclr_views(),
      "model": recipes.resnet(50),
      "objective": {
        "name": "simclr",
        "temperature": 0.1,
        "projector": {"hidden_dims": (2048,), "out_dim": 128},
      },
      "optim": {
        "name": "lars",
        "learning_rate": 0.3 * batch_size / 256,
        "warmup_steps": 10 * epoch,
        "weight_decay": 1e-6,
        "momentum": 0.9,
      },
    }
  )
