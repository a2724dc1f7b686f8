"""SimCLR (Chen et al., ICML 2020, appendix B.9) on CIFAR-10, ResNet-18.

    python -m jssl.data.prepare cifar10
    python -m jssl.train --config=configs/simclr_cifar10.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: `:1000` epochs (the default), or any number over 10, as in
`--config=configs/simclr_cifar10.py:200`.

Cost: 1000 epochs at 32 px are 3.3e17 FLOPs, some hours on one A100 or H100; not
meant for a CPU. Expected: solo-learn reports a linear accuracy of 90.7% for
SimCLR with ResNet-18 after 1000 epochs (online probe). Nothing was measured
with this config here; that it builds and compiles is tested.
"""

from ml_collections import ConfigDict

from jssl.build import with_defaults


def get_config(arg: str = "1000") -> ConfigDict:
  epochs, batch_size = int(arg), 512
  steps_per_epoch = 50_000 // batch_size
  return with_defaults(
    {
      "data": {
        "name": "cifar10",
        "batch_size": batch_size,
        "image_size_px": 32,
      },
      "augment": {
        "crop_size_px": 32,
        "crop_min_area": 0.08,
        "flip_probability": 0.5,
        # Strength 0.5; no blur at 32 px.
        "jitter_probability": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
        "grayscale_probability": 0.2,
      },
      "model": {
        "name": "resnet",
        "depth": 18,
        "small_images": True,
        "width": 64,
        "dtype": "bfloat16",
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
      },
      "objective": {
        "name": "simclr",
        "temperature": 0.5,
        "hidden_dims": (512,),
        "out_dim": 128,
      },
      "optim": {
        "name": "lars",
        "learning_rate": 1.0 * batch_size / 256,
        "warmup_steps": 10 * steps_per_epoch,
        "weight_decay": 1e-4,
        "momentum": 0.9,
      },
      "train": {"steps": epochs * steps_per_epoch},
      "checkpoint": {
        "every_steps": 10 * steps_per_epoch,
        "keep_every_steps": 100 * steps_per_epoch,
      },
      "log": {"every_steps": 50},
    }
  )
