"""Image encoders (backbones) and the heads that objectives put on them.

A backbone is a pair of pure functions, `init` and `apply`, from images [b, h,
w, c] in [0, 1] to features [b, d]:

    >>> import jax
    >>> model = ViT(patch_size_px=4, width=64, depth=2, num_heads=2)
    >>> backbone = model.backbone()
    >>> variables = backbone.init(jax.random.key(0), (28, 28, 1))
    >>> images = jax.numpy.zeros((8, 28, 28, 1))
    >>> encoded, _ = backbone.apply(variables, images, train=False)
    >>> encoded.pooled.shape
    (8, 64)

`MODELS` maps the `model.name` of a config to `ViT` and `ResNet`. `from_linen`
makes a backbone from a Flax module. `Head` (projectors and predictors) and
`Prototypes` map features to the inputs of a loss.
"""

from jssl.models.backbone import Backbone, from_linen, init_variables
from jssl.models.decoder import Decoder
from jssl.models.heads import Head, Prototypes, init_heads
from jssl.models.resnet import ResNet
from jssl.models.tokens import Drop, Encoded, Grid, Mask, Replace, Spec
from jssl.models.vit import ViT

MODELS: dict[str, type[ViT] | type[ResNet]] = {"resnet": ResNet, "vit": ViT}

__all__ = [
  "MODELS",
  "Backbone",
  "Decoder",
  "Drop",
  "Encoded",
  "Grid",
  "Head",
  "Mask",
  "Prototypes",
  "Replace",
  "ResNet",
  "Spec",
  "ViT",
  "from_linen",
  "init_heads",
  "init_variables",
]
