"""W-MSE (Ermolov et al., ICML 2021) on ImageNet, ResNet-50, batch 512.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/w_mse_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs, default `:100`.

Embedding width and epochs are the paper's for ImageNet; batch size and Adam are
the paper's for CIFAR-10. The batch is whitened as a whole. The augmentation is
BYOL's; the cosine schedule is our choice.

Cost: 100 epochs of ImageNet at batch 512. Needs accelerators: check the fit
with `python -m jssl.preflight` first.
Expected: unknown. Not measured here.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "100") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 512
  return ConfigDict(
    {
      **recipes.imagenet(epochs=epochs, batch_size=batch_size),
      "augment": recipes.byol_views(),
      "model": recipes.resnet(50),
      "objective": {
        "name": "w_mse",
        "projector": {"hidden_dims": (1024,), "out_dim": 128},
      },
      "optim": {
        "name": "adam",
        "learning_rate": 2e-3,
        # Warm-up steps and decay are from memory of the authors' code.
        "warmup_steps": 500,
        "weight_decay": 1e-6,
      },
    }
  )
