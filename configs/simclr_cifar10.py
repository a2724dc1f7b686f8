"""SimCLR (Chen et al., ICML 2020, appendix B.9) on CIFAR-10, ResNet-18.

    python -m jssl.data.prepare cifar10
    python -m jssl.train --config=configs/simclr_cifar10.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: a number of epochs above 10, default `:1000`, as in
`--config=configs/simclr_cifar10.py:200`.

Cost: 3.3e17 FLOPs for 1000 epochs at 32 px, some hours on one A100 or H100; too
slow on a CPU.
Expected: solo-learn reports 90.7% linear accuracy (online probe) for SimCLR
with ResNet-18 after 1000 epochs. Not measured here; tests build and compile it.
"""

from ml_collections import ConfigDict

from jssl.config import recipes


def get_config(arg: str = "1000") -> ConfigDict:
  epochs, batch_size = recipes.epochs(arg), 512
  epoch = recipes.CIFAR10_IMAGES // batch_size
  return ConfigDict(
    {
      **recipes.cifar10(epochs=epochs, batch_size=batch_size),
      # No blur at 32 px.
      "augment": {
        "crop_size_px": 32,
        "crop_min_area": 0.08,
        "flip_probability": 0.5,
        "jitter_probability": 0.8,
        **recipes.colour_strength(0.5),
        "grayscale_probability": 0.2,
      },
      "model": {
        **recipes.resnet(18, small_images=True),
        **recipes.CIFAR10_PIXELS,
      },
      "objective": {
        "name": "simclr",
        "temperature": 0.5,
        "projector": {"hidden_dims": (512,), "out_dim": 128},
      },
      "optim": {
        "name": "lars",
        "learning_rate": 1.0 * batch_size / 256,
        "warmup_steps": 10 * epoch,
        "weight_decay": 1e-4,
        "momentum": 0.9,
      },
    }
  )
