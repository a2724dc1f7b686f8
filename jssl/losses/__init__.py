"""The losses of self-supervised learning, as pure functions of arrays.

Arrays first, hyper-parameters by keyword, a scalar out, float32 or wider. They
are written on global arrays: under `jax.jit` with sharded inputs, value and all
gradients are those of one device holding everything. No array of all pairs, or
of all rows and prototypes, exists on the way, but for second derivatives. Three
keywords are common:

`axis_name`: for callers inside of `jax.shard_map`, the mesh axes that split the
  batch; parameters (temperatures, prototypes, a queue) are the same everywhere.
  What is returned is the loss of the global batch, on every device; `()` is the
  loss of the device's own rows. A gradient that is taken outside of `shard_map`
  is right as it is. One that is taken inside is

  - with `check_vma=True` that of the returned loss: for split arrays the part
    of these rows, for parameters the whole;
  - with `check_vma=False` that of the sum of all devices' (equal) losses, for
    this device's copy: `jax.lax.pmean` those of parameters, as in any
    data-parallel training. Those of split arrays are too large by the number
    of devices.

  Second derivatives are for global arrays only.

`batch_axes`: on a mesh of `Auto` axes, where shardings can't be seen while
  tracing, the axes that split the batch; None stands for all of them. It says
  where the work is done, and never changes the result.

`implementation`: how the fused operations are computed: "reference" on whole
  matrices, "tiled", "pallas_tpu" (the two that have a kernel); None chooses by
  platform and shape, and a TPU that gets no kernel says why in the log.
  "pallas_tpu" by name has no second derivatives, and only "reference" can be
  differentiated forwards (`jax.jvp`).
"""

from jssl.losses.clustering import sinkhorn, swav
from jssl.losses.contrastive import (
  cissl,
  dcl,
  info_nce,
  nt_xent,
  supervised_contrastive,
)
from jssl.losses.covariance import (
  BarlowTerms,
  VICRegTerms,
  barlow_terms,
  barlow_twins,
  vicreg,
  vicreg_terms,
  w_mse,
)
from jssl.losses.distillation import (
  DISSLTerms,
  dino,
  dino_center,
  dissl,
  dissl_terms,
)
from jssl.losses.distribution import koleo, sigreg, uniformity
from jssl.losses.pairwise import sigmoid_contrastive, spectral_contrastive
from jssl.losses.siamese import alignment, byol, negative_cosine, simsiam

__all__ = [
  "BarlowTerms",
  "DISSLTerms",
  "VICRegTerms",
  "alignment",
  "barlow_terms",
  "barlow_twins",
  "byol",
  "cissl",
  "dcl",
  "dino",
  "dino_center",
  "dissl",
  "dissl_terms",
  "info_nce",
  "koleo",
  "negative_cosine",
  "nt_xent",
  "sigmoid_contrastive",
  "sigreg",
  "simsiam",
  "sinkhorn",
  "spectral_contrastive",
  "supervised_contrastive",
  "swav",
  "uniformity",
  "vicreg",
  "vicreg_terms",
  "w_mse",
]
