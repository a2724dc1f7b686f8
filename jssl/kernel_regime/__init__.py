"""The kernel regime of joint embedding: linear maps on a kernel's features.

Kiani, Balestriero, Chen, Lloyd and LeCun, "Joint Embedding Self-Supervised
Learning in the Kernel Regime", 2022, arXiv 2209.14884. The paper could not be
read: the forms of its two losses are recalled, all formulas were derived from
them, and the tests compare them with direct optimisation.

N points X, augmented copies included, have the Gram matrix K. An embedding is
f(x) = M k(X, x), with M of [d_out, N]; then

    Z = K M^T,    G = Z Z^T = K B K,    B = M^T M,
    k*(x, x') = f(x) . f(x') = k(x, X) B k(X, x')

and what remains of a loss is a target T, made of who is a copy of whom. The
files follow the formulas: `dense` and `convolutional` (k; `relu` is what they
share), `gram` and `psd` (K), `targets` (T), `losses`, `optimum` (M; `fista` is
another way there), `embedding` (f and k*), `downstream` (classifiers on a
kernel). `memory` says what fits.
"""

from jssl.kernel_regime.convolutional import ConvGP, ConvNTK
from jssl.kernel_regime.dense import (
  MLPNTK,
  RBF,
  ArcCosine,
  Kernel,
  median_bandwidth,
)
from jssl.kernel_regime.downstream import (
  Downstream,
  ridge_accuracy,
  svm_accuracy,
)
from jssl.kernel_regime.embedding import (
  Embedding,
  WithinBetween,
  alignment_with,
  induced,
  spectrum,
  trace_bk,
  within_between,
)
from jssl.kernel_regime.fista import Ridge, ridge_fista
from jssl.kernel_regime.gram import gram
from jssl.kernel_regime.losses import Contrastive, Loss, NonContrastive
from jssl.kernel_regime.memory import gram_gib
from jssl.kernel_regime.optimum import (
  closed_form,
  ridge_form,
  ridge_loss,
  supervised_form,
  vanishing_alpha,
)
from jssl.kernel_regime.psd import check_psd, with_jitter
from jssl.kernel_regime.targets import (
  Eigenpairs,
  adjacency,
  centring,
  check_views,
  laplacian,
  top_eigenpairs,
)

__all__ = [
  "MLPNTK",
  "RBF",
  "ArcCosine",
  "Contrastive",
  "ConvGP",
  "ConvNTK",
  "Downstream",
  "Eigenpairs",
  "Embedding",
  "Kernel",
  "Loss",
  "NonContrastive",
  "Ridge",
  "WithinBetween",
  "adjacency",
  "alignment_with",
  "centring",
  "check_psd",
  "check_views",
  "closed_form",
  "gram",
  "gram_gib",
  "induced",
  "laplacian",
  "median_bandwidth",
  "ridge_accuracy",
  "ridge_fista",
  "ridge_form",
  "ridge_loss",
  "spectrum",
  "supervised_form",
  "svm_accuracy",
  "top_eigenpairs",
  "trace_bk",
  "vanishing_alpha",
  "with_jitter",
  "within_between",
]
