"""Row and column log-sum-exp of a matrix of scaled similarities."""

from jssl.losses.ops.similarity.api import log_sum_exp, log_sum_exps, side
from jssl.losses.ops.similarity.reference import MASKED, Side

__all__ = ["MASKED", "Side", "log_sum_exp", "log_sum_exps", "side"]
