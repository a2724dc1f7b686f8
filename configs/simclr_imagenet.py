"""SimCLR (Chen et al., ICML 2020) on ImageNet, ResNet-50, batch 4096.

    python -m jssl.data.prepare imagenet2012
    python -m jssl.train --config=configs/simclr_imagenet.py --workdir=W
    python -m jssl.probe --workdir=W

Variants: `:100` epochs (the default), or any number over 10, as in
`--config=configs/simclr_imagenet.py:800`.

Cost: a step is 782 GFLOP a chip on 256 TPU v5e chips. Expected: 64.4% linear
after 100 epochs, 69.3% after 1000 (in the paper). Nothing was trained with this
config here; what its step needs on `v5e:16x16` is measured by compiling it, see
the README.
"""

from ml_collections import ConfigDict

from jssl.build import with_defaults


def get_config(arg: str = "100") -> ConfigDict:
  epochs, batch_size = int(arg), 4096
  steps_per_epoch = 1_281_167 // batch_size
  return with_defaults(
    {
      "data": {
        "name": "imagenet2012",
        "batch_size": batch_size,
        # Decoded to squares on the host, cropped on the device.
        "image_size_px": 256,
        "test_split": "validation",
        "in_memory": False,
        "workers": 16,
      },
      "augment": {
        "crop_size_px": 224,
        "crop_min_area": 0.08,
        "flip_probability": 0.5,
        # Strength 1.
        "jitter_probability": 0.8,
        "brightness": 0.8,
        "contrast": 0.8,
        "saturation": 0.8,
        "hue": 0.2,
        "grayscale_probability": 0.2,
        "blur_probability": 0.5,
        "blur_kernel_px": 23,
        "blur_sigma_min": 0.1,
        "blur_sigma_max": 2.0,
      },
      "model": {
        "name": "resnet",
        "depth": 50,
        "small_images": False,
        "width": 64,
        "dtype": "bfloat16",
      },
      "objective": {
        "name": "simclr",
        "temperature": 0.1,
        "hidden_dims": (2048,),
        "out_dim": 128,
      },
      "optim": {
        "name": "lars",
        "learning_rate": 0.3 * batch_size / 256,
        "warmup_steps": 10 * steps_per_epoch,
        "weight_decay": 1e-6,
        "momentum": 0.9,
      },
      "train": {"steps": epochs * steps_per_epoch},
      "checkpoint": {
        "every_steps": 5 * steps_per_epoch,
        "keep_every_steps": 50 * steps_per_epoch,
      },
      "log": {"every_steps": 100},
      "probe": {"memory_limit_gib": 4.0},
    }
  )
