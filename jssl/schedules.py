"""Schedules: a step goes in, a scalar comes out, inside or outside of jit."""

from collections.abc import Callable

import jax.numpy as jnp
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


def _between(
  start: float, end: float, fraction: Scalar, *, step: Step, last_step: int
) -> Scalar:
  """Returns the value `fraction` of the way to `end`, `end` from `last_step`.

  No rounding at either end: XLA may divide a step by multiplying with an
  inverse, and then the last fraction is not quite 1.
  """
  between = (1 - fraction) * start + fraction * end
  return jnp.where(step < last_step, between, end)


def cosine(start: float, end: float, *, total_steps: int) -> Schedule:
  """Half a cosine from `start` at step 0 to `end` at `total_steps`.

  Step k of K has `end - (end - start) (cos(pi k / K) + 1) / 2`: the momentum of
  BYOL's teacher (Grill et al., NeurIPS 2020, section 3.3, with `end=1`) and
  DINO's weight decay. After K it stays at `end`; a run's last step is K - 1.

  Args:
    start: the first value.
    end: the last value, larger or smaller.
    total_steps: K, steps of the whole run.

  Raises:
    ValueError: there are no steps.
  """
  if total_steps < 1:
    raise ValueError(
      f"total_steps={total_steps} of a cosine must be at least 1 (train.steps)"
    )

  def schedule(step: Step) -> Scalar:
    fraction = (1 - jnp.cos(jnp.pi * (step / float(total_steps)))) / 2
    return _between(start, end, fraction, step=step, last_step=total_steps)

  return schedule


def warmup_constant(start: float, end: float, *, warmup_steps: int) -> Schedule:
  """A line from `start` at step 0 to `end` at `warmup_steps`, then `end`.

  The temperature of DINO's teacher, by step: its code goes by epochs, and is
  at `end` in the last epoch of its warm-up.

  Args:
    start: the first value.
    end: the last value, larger or smaller.
    warmup_steps: steps until `end` is reached; 0 for `end` from the start.

  Raises:
    ValueError: the number of steps is negative.
  """
  if warmup_steps < 0:
    raise ValueError(f"warmup_steps={warmup_steps} must be at least 0")

  def schedule(step: Step) -> Scalar:
    fraction = jnp.asarray(step / float(max(warmup_steps, 1)))
    return _between(start, end, fraction, step=step, last_step=warmup_steps)

  return schedule


def frozen_until(steps: int) -> Schedule:
  """0 before step `steps` and 1 from it on: a learning-rate multiplier.

  For prototypes that stand still at first (SwAV, DINO).

  Args:
    steps: how many steps have 0; 0 for none.

  Raises:
    ValueError: the number of steps is negative.
  """
  if steps < 0:
    raise ValueError(f"steps={steps} of a frozen group must be at least 0")

  def schedule(step: Step) -> Scalar:
    return jnp.where(step < steps, 0.0, 1.0)

  return schedule
