"""Image encoders and heads: ViT, ResNet, MLP heads and prototypes.

`MODELS` maps the `model.name` of a config to the dataclass of its section; each
has `.backbone()`, which returns pure `init` and `apply` functions.
"""

from jssl.models.backbone import Backbone, from_linen, init_variables
from jssl.models.heads import Head, Prototypes
from jssl.models.resnet import ResNet
from jssl.models.vit import ViT

MODELS: dict[str, type[ViT] | type[ResNet]] = {"resnet": ResNet, "vit": ViT}

__all__ = [
  "MODELS",
  "Backbone",
  "Head",
  "Prototypes",
  "ResNet",
  "ViT",
  "from_linen",
  "init_variables",
]
