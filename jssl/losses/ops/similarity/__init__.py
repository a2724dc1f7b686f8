"""Row and column log-sum-exps of a matrix of scaled similarities."""

from jssl.losses.ops.similarity.api import log_sum_exp, log_sum_exps
from jssl.losses.ops.similarity.reference import MASKED, Operand, operand

__all__ = ["MASKED", "Operand", "log_sum_exp", "log_sum_exps", "operand"]
