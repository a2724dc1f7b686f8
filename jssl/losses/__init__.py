"""Losses of self-supervised learning, as pure functions of arrays.

Arrays are positional, hyper-parameters keyword-only; the result is a scalar in
float32 or wider. Inputs that are not floating-point arrays raise TypeError.
Under `jax.jit` with sharded inputs, value and gradients equal those on one
device. First derivatives need no array of all pairs, or of all rows and
prototypes. Three keywords are common to most losses:

`axis_name`: inside a caller's `jax.shard_map`, the mesh axes that shard the
  batch. Parameters (temperatures, prototypes, a queue) are replicated. The
  result is the loss of the global batch, on every device; `()` gives the loss
  of the local rows. A gradient taken outside `shard_map` needs no correction. A
  gradient taken inside is

  - with `check_vma=True` the gradient of the returned loss: of the local rows
    for sharded arrays, complete for parameters;
  - with `check_vma=False` the gradient of the sum of all devices' (equal)
    losses by this device's copy: apply `jax.lax.pmean` to those of parameters,
    as in any data-parallel training. Those of sharded arrays are too large by
    the number of devices.

  Second derivatives are supported for global arrays only.

`batch_axes`: on a mesh of `Auto` axes, whose shardings are unknown while
  tracing, the axes that shard the batch; None for all axes. Affects where the
  work is done, never the result.

`implementation`: how the fused operations are computed: "reference" on whole
  matrices, "tiled", or "pallas_tpu" (two operations have a kernel). None
  chooses by platform and shape; the log says why a TPU does not use a kernel.
  "pallas_tpu" has no second derivatives. Only "reference" supports forward-mode
  differentiation (`jax.jvp`).

Losses that average over rows take `weights`, one finite nonnegative weight per
row, for the mean of the rows' terms. A row of weight 0 is still a negative of
other rows, and one that is NaN or infinite makes the loss NaN, as without
weights: replace it before, as in `jnp.where(mask[:, None], z, 0)`. Weights that
are all 0 give gradients of 0. Parameter objects such as `flax.nnx.Param` stand
for their arrays.
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
from jssl.losses.patches import gram_loss, ibot, sinkhorn_center
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
  "gram_loss",
  "ibot",
  "info_nce",
  "koleo",
  "negative_cosine",
  "nt_xent",
  "sigmoid_contrastive",
  "sigreg",
  "simsiam",
  "sinkhorn",
  "sinkhorn_center",
  "spectral_contrastive",
  "supervised_contrastive",
  "swav",
  "uniformity",
  "vicreg",
  "vicreg_terms",
  "w_mse",
]
