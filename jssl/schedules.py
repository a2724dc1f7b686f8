"""Schedules: a step goes in, a scalar comes out, inside or outside of jit."""

from collections.abc import Callable

import optax

from jssl.typing import Scalar, Step

Schedule = Callable[[Step], Scalar | float]


def warmup_cosine(
  peak: float, *, warmup_steps: int, total_steps: int, end_fraction: float = 0.0
) -> Schedule:
  """Linear warm-up to `peak`, then half a cosine to `end_fraction * peak`.

  The first step already moves: step 0 has `peak / warmup_steps`.

  Args:
    peak: the largest value.
    warmup_steps: steps until `peak` is reached; 0 for none.
    total_steps: steps of the whole run.
    end_fraction: the last value, as a fraction of `peak`.

  Raises:
    ValueError: the warm-up is as long as the run, or longer.
  """
  if not 0 <= warmup_steps < total_steps:
    raise ValueError(
      f"optim.warmup_steps={warmup_steps} must be at least 0 and less than "
      f"the {total_steps} steps of the run (train.steps)"
    )
  cosine = optax.cosine_decay_schedule(
    peak, total_steps - warmup_steps, alpha=end_fraction
  )
  if warmup_steps == 0:
    return cosine
  warmup = optax.linear_schedule(
    peak / warmup_steps, peak, max(warmup_steps - 1, 1)
  )
  return optax.join_schedules([warmup, cosine], [warmup_steps])
