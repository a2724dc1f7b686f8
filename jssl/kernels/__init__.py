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

from jssl.kernels.convolutional import ConvGP, ConvNTK
from jssl.kernels.dense import (
  MLPNTK,
  RBF,
  ArcCosine,
  Kernel,
  median_bandwidth,
)
from jssl.kernels.downstream import Downstream, ridge_accuracy, svm_accuracy
from jssl.kernels.embedding import (
  Embedding,
  WithinBetween,
  alignment_with,
  induced,
  spectrum,
  trace_bk,
  within_between,
)
from jssl.kernels.fista import Ridge, ridge_fista
from jssl.kernels.gram import gram
from jssl.kernels.losses import Contrastive, Loss, NonContrastive
from jssl.kernels.memory import gram_gib
from jssl.kernels.optimum import (
  closed_form,
  ridge_form,
  ridge_loss,
  supervised_form,
  vanishing_alpha,
)
from jssl.kernels.psd import check_psd, with_jitter
from jssl.kernels.targets import (
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
