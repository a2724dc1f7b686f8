"""The optimizer: an optax chain, and the masks that papers use with it."""

from jssl.optim.chain import Optim, make_optimizer

__all__ = ["Optim", "make_optimizer"]
