"""Config sections shared by configs/*.py, as plain dicts.

A config combines them with the settings of a method:

    ConfigDict(
      {
        **recipes.imagenet(epochs=100, batch_size=4096),
        "augment": recipes.byol_views(),
        "model": recipes.resnet(50),
        "objective": {"name": "byol"},
        "optim": {...},
      }
    )

and overrides single keys with `{**recipes.resnet(50), "expand_dim": 8192}`.
"""

from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

Section = dict[str, Any]

IMAGENET_IMAGES = 1_281_167
CIFAR10_IMAGES = 50_000
FASHION_MNIST_IMAGES = 60_000
TINY_IMAGENET_IMAGES = 100_000

IMAGENET_PIXELS = {
  "mean": (0.485, 0.456, 0.406),
  "std": (0.229, 0.224, 0.225),
}
CIFAR10_PIXELS = {
  "mean": (0.4914, 0.4822, 0.4465),
  "std": (0.2470, 0.2435, 0.2616),
}


def epochs(arg: str) -> int:
  """Parses a positive number of epochs; ValueError for anything else."""
  if not arg.isdecimal() or int(arg) < 1:
    raise ValueError(
      f"unknown variant {arg!r}; expected a number of epochs, as in "
      "--config=FILE:100"
    )
  return int(arg)


def known(name: str, names: Collection[str]) -> str:
  """Returns the name of a variant; ValueError if it is not one of `names`."""
  if name not in names:
    raise ValueError(f"unknown variant {name!r}; known: {', '.join(names)}")
  return name


def variant(
  arg: str, names: Collection[str], default_epochs: int
) -> tuple[str, int]:
  """Parses a config argument `NAME` or `NAME,EPOCHS`.

  Raises:
    ValueError: if the variant is unknown, or the epochs not a positive integer.
  """
  name, comma, number = arg.partition(",")
  return known(name, names), epochs(number) if comma else default_epochs


def _small_images(
  name: str, images: int, size_px: int, epochs: int, batch_size: int
) -> dict[str, Section]:
  epoch = images // batch_size
  return {
    "data": {
      "name": name,
      "batch_size": batch_size,
      "image_size_px": size_px,
    },
    "train": {"steps": epochs * epoch},
    "checkpoint": {
      "every_steps": 10 * epoch,
    },
  }


def cifar10(*, epochs: int, batch_size: int) -> dict[str, Section]:
  """Returns data, train and checkpoint sections for CIFAR-10."""
  return _small_images("cifar10", CIFAR10_IMAGES, 32, epochs, batch_size)


def tiny_imagenet(*, epochs: int, batch_size: int) -> dict[str, Section]:
  """Returns data, train and checkpoint sections for Tiny ImageNet.

  Prepare the data set from an image folder with `--name tiny_imagenet`.
  """
  return _small_images(
    "tiny_imagenet", TINY_IMAGENET_IMAGES, 64, epochs, batch_size
  )


def imagenet(*, epochs: int, batch_size: int) -> dict[str, Section]:
  """Returns data, train, checkpoint, log and probe sections for ImageNet.

  Host processes decode images to 256 px squares; devices crop them.
  """
  epoch = IMAGENET_IMAGES // batch_size
  return {
    "data": {
      "name": "imagenet2012",
      "batch_size": batch_size,
      "image_size_px": 256,
      "test_split": "validation",
      "in_memory": False,
      "workers": 16,
    },
    "train": {"steps": epochs * epoch},
    "checkpoint": {"every_steps": 5 * epoch},
    "log": {"every_steps": 100},
    "probe": {"memory_limit_gib": 4.0},
  }


def for_many_seeds(config: ConfigDict) -> ConfigDict:
  """Shortens a Fashion-MNIST config in place, for studies with many seeds.

  Two epochs of a quarter of the images, and a ViT of 64 dimensions and two
  blocks: about a minute on one CPU core, with the probe.
  """
  steps = 2 * (FASHION_MNIST_IMAGES // 4 // config.data.batch_size)
  config.data.split = "train[:25%]"
  config.model.width, config.model.depth = 64, 2
  config.train.steps = steps
  config.checkpoint = {"every_steps": steps}
  config.optim.warmup_steps = steps // 4
  config.probe.seeds = 1
  return config


def fashion_mnist(*, epochs: int, batch_size: int) -> dict[str, Section]:
  """Returns data, augment, model and train sections: a small ViT, for CPUs."""
  return {
    "data": {
      "name": "fashion_mnist",
      "batch_size": batch_size,
      "image_size_px": 28,
    },
    "augment": {
      "crop_size_px": 28,
      "crop_min_area": 0.3,
      "flip_probability": 0.5,
      "jitter_probability": 0.8,
      "brightness": 0.4,
      "contrast": 0.4,
    },
    "model": {
      "name": "vit",
      "patch_size_px": 7,
      "width": 128,
      "depth": 3,
      "num_heads": 4,
      "zero_init_residual": True,
      "mean": (0.286,),
      "std": (0.353,),
    },
    "train": {"steps": FASHION_MNIST_IMAGES // batch_size * epochs},
  }


def colour_strength(s: float) -> dict[str, float]:
  """Returns the ranges of SimCLR's colour jitter at strength `s`.

  Brightness, contrast and saturation are 0.8 s; hue 0.2 s turns, at most 0.5.
  SimCLR uses 1 on ImageNet and 0.5 on CIFAR-10. At every strength it jitters
  with probability 0.8 and converts to grayscale with probability 0.2.

  Raises:
    ValueError: if `s` is negative.

  Reference:
    Chen et al., "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020, arXiv 2002.05709, appendix A.
  """
  if not s >= 0:
    raise ValueError(f"s={s} must be at least 0")
  # Half a turn in both directions covers all hues.
  ranges = dict.fromkeys(("brightness", "contrast", "saturation"), 0.8 * s)
  return {**ranges, "hue": min(0.2 * s, 0.5)}


def coarse(s: float) -> dict[str, float]:
  """Returns crop, jitter and grayscale of CISSL and DISSL at strength `s`.

  A coarser augmentation has smaller crops and stronger colour changes, so that
  the views of an image share fewer features and more images are equivalent.
  Strength 1 is SimCLR's augmentation of small images.

  Raises:
    ValueError: if `s` is not positive.

  Reference:
    Dubois et al., "Improving Self-Supervised Learning by Characterizing
    Idealized Representations", NeurIPS 2022, arXiv 2209.06235. Values are from
    the authors' code for TinyImageNet and STL-10.
  """
  if not s > 0:
    raise ValueError(f"s={s} must be positive")
  return {
    "crop_min_area": min(0.2 / s, 1.0),
    **colour_strength(s / 2),
    "grayscale_probability": min(0.1 * s, 1.0),
  }


def simclr_views(*, crop_min_area: float = 0.08) -> Section:
  """Returns SimCLR's augmentation for ImageNet at strength 1."""
  return {
    "crop_size_px": 224,
    "crop_min_area": crop_min_area,
    "flip_probability": 0.5,
    "jitter_probability": 0.8,
    **colour_strength(1.0),
    "grayscale_probability": 0.2,
    "blur_probability": (0.5,),
    # A tenth of the view, as in SimCLR.
    "blur_kernel_px": 23,
    "blur_sigma_min": 0.1,
    "blur_sigma_max": 2.0,
  }


def moco_views() -> Section:
  """Returns the augmentation of MoCo v2 and SimSiam, as in the authors' code.

  Crops are larger and colour jitter is half as strong as in SimCLR.
  """
  return {**simclr_views(crop_min_area=0.2), **colour_strength(0.5)}


def crop_views(*, crop_min_area: float) -> Section:
  """Returns crops and flips only, as masked-image methods use them."""
  return {
    "crop_size_px": 224,
    "crop_min_area": crop_min_area,
    "flip_probability": 0.5,
  }


def mixed_images() -> Section:
  """Returns mixing and erasing of DeiT, which MAE's fine-tuning shares."""
  return {"erase_probability": 0.25, "mixup_alpha": 0.8, "cutmix_alpha": 1.0}


def byol_views(*, crop_min_area: float = 0.08) -> Section:
  """Returns BYOL's augmentation for ImageNet, whose two views differ."""
  return {
    **simclr_views(crop_min_area=crop_min_area),
    **colour_strength(0.5),
    "saturation": 0.2,
    "blur_probability": (1.0, 0.1),
    "solarize_probability": (0.0, 0.2),
  }


def small_crops(number: int, *, max_area: float, size_px: int = 96) -> Section:
  """Returns the small-crop keys of an augment section (SwAV's multi-crop).

  Crop areas are 0.05 to `max_area` of the image.
  """
  return {
    "num_small": number,
    "small_crop_size_px": size_px,
    "small_crop_min_area": 0.05,
    "small_crop_max_area": max_area,
    "small_blur_probability": 0.5,
  }


def coarse_views(strength: float) -> Section:
  """Returns the augmentation of CISSL and DISSL for Tiny ImageNet, 64 px.

  Above strength 1 views are also blurred, with an odd kernel of a tenth.
  """
  return {
    "crop_size_px": 64,
    "flip_probability": 0.5,
    "jitter_probability": 0.8,
    **coarse(strength),
    "blur_probability": (0.5 if strength > 1 else 0.0,),
    "blur_kernel_px": 7,
  }


def dino_optim(peak: float, *, epoch_steps: int) -> Section:
  """Returns the optimizer of DINO, iBOT and DINOv2 at a peak learning rate."""
  return {
    "name": "adamw",
    "learning_rate": peak,
    "warmup_steps": 10 * epoch_steps,
    "end_fraction": 1e-6 / peak,
    "weight_decay": 0.04,
    "weight_decay_end": 0.4,
    "clip_norm": 3.0,
  }


def resnet(depth: int, *, small_images: bool = False) -> Section:
  """Returns a bfloat16 ResNet with ImageNet pixel statistics."""
  return {
    "name": "resnet",
    "depth": depth,
    "small_images": small_images,
    "width": 64,
    "dtype": "bfloat16",
    **IMAGENET_PIXELS,
  }


def vit(width: int, *, num_heads: int) -> Section:
  """Returns a bfloat16 ViT of 12 blocks with 16 px patches, for ImageNet.

  Widths are 384 (ViT-S) or 768 (ViT-B); heads usually 12, 6 in DINO's ViT-S.
  """
  return {
    "name": "vit",
    "patch_size_px": 16,
    "width": width,
    "depth": 12,
    "num_heads": num_heads,
    "pooling": "cls",
    # Less memory and HBM traffic: docs/preflight.md.
    "remat": "dots",
    "dtype": "bfloat16",
    **IMAGENET_PIXELS,
  }
