"""Kernel regime of joint embedding: optimal linear maps of kernel features.

Kiani, Balestriero, Chen, Lloyd and LeCun, "Joint Embedding Self-Supervised
Learning in the Kernel Regime", 2022, arXiv 2209.14884. The paper was not
available: its two losses are recalled, all formulas derived from them, and
tested against direct optimisation.

N points X, augmented views included, have the Gram matrix K. An embedding is
f(x) = M k(X, x) with M of [d_out, N]; then

    Z = K M^T,    G = Z Z^T = K B K,    B = M^T M,
    k*(x, x') = f(x) . f(x') = k(x, X) B k(X, x')

and a loss compares G with a target T that encodes which points are views of one
image. With classes in place of images, the contrastive loss gives the
supervised kernel. Matrices take at most 80% of the available memory, or the
`memory_limit` of the context.

Example:
  >>> import numpy as np
  >>> from jssl import kernel_regime as kr
  >>> x = np.random.default_rng(0).normal(size=(12, 3))
  >>> image_ids, kernel = np.repeat(np.arange(4), 3), kr.RBF(bandwidth=1.0)
  >>> k = kr.with_jitter(kr.gram(kernel, x))
  >>> embed = kr.Embedding(
  ...   kernel, x, kr.solve(k, kr.Contrastive(), image_ids, d_out=4)
  ... )
  >>> embed(x[:2]).shape
  (2, 4)
"""

from jssl.kernel_regime.classifiers import Accuracy, kernel_accuracy
from jssl.kernel_regime.convolutional import ConvGP, ConvNTK
from jssl.kernel_regime.dense import (
  MLPNTK,
  RBF,
  ArcCosine,
  Kernel,
  median_bandwidth,
)
from jssl.kernel_regime.embedding import (
  Embedding,
  WithinBetween,
  induced_kernel,
  induced_spectrum,
  kernel_alignment,
  ridge_penalty,
  within_between,
)
from jssl.kernel_regime.gram import gram
from jssl.kernel_regime.losses import Contrastive, Loss, NonContrastive
from jssl.kernel_regime.memory import gram_gib, memory_limit
from jssl.kernel_regime.psd import with_jitter
from jssl.kernel_regime.solvers import (
  alpha_max,
  closed_form,
  ridge_closed_form,
  ridge_loss,
  solve,
)
from jssl.kernel_regime.targets import check_views, top_eigenpairs

__all__ = [
  "MLPNTK",
  "RBF",
  "Accuracy",
  "ArcCosine",
  "Contrastive",
  "ConvGP",
  "ConvNTK",
  "Embedding",
  "Kernel",
  "Loss",
  "NonContrastive",
  "WithinBetween",
  "alpha_max",
  "check_views",
  "closed_form",
  "gram",
  "gram_gib",
  "induced_kernel",
  "induced_spectrum",
  "kernel_accuracy",
  "kernel_alignment",
  "median_bandwidth",
  "memory_limit",
  "ridge_closed_form",
  "ridge_loss",
  "ridge_penalty",
  "solve",
  "top_eigenpairs",
  "with_jitter",
  "within_between",
]
