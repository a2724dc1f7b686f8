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
