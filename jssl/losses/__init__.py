"""The losses of self-supervised learning, as pure functions of arrays.

Arrays first, hyper-parameters by keyword, a scalar out. They are written on
global arrays: under `jax.jit` with sharded inputs, value and gradient are those
of one device holding everything.
"""

from jssl.losses.contrastive import nt_xent

__all__ = ["nt_xent"]
