"""Schedules: functions from a step to a scalar, traced or not."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from jssl.typing import Scalar, Step

Schedule = Callable[[Step], Scalar | float]


def warmup_cosine(
  peak: float, *, warmup_steps: int, total_steps: int, end_fraction: float = 0.0
) -> Schedule:
  """Linear warmup to `peak`, then cosine decay to `end_fraction * peak`.

  The first step has the value `peak / warmup_steps`, not 0.

  Args:
    peak: largest value.
    warmup_steps: number of steps to reach `peak`; 0 for no warmup.
    total_steps: number of steps of the run.
    end_fraction: final value as a fraction of `peak`.

  Raises:
    ValueError: if the warmup is not shorter than the run.
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
  """Interpolates from `start` to `end`; exactly `end` from `last_step` on.

  XLA may divide by multiplying with a reciprocal, so that the last fraction is
  not exactly 1.
  """
  between = (1 - fraction) * start + fraction * end
  return jnp.where(step < last_step, between, end)


def cosine(start: float, end: float, *, total_steps: int) -> Schedule:
  """Cosine schedule from `start` at step 0 to `end` at `total_steps`.

      value(k) = end - (end - start) (cos(pi k / K) + 1) / 2,   k < K

  Used for the momentum of BYOL's teacher (with `end=1`) and for DINO's weight
  decay. The last step of a run is K - 1.

  Args:
    start: first value.
    end: final value, larger or smaller than `start`.
    total_steps: K, the number of steps of the run.

  Raises:
    ValueError: if `total_steps` is less than 1.

  Reference:
    Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, section 3.3.
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
  """Linear from `start` at step 0 to `end` at `warmup_steps`, then constant.

  Used for the temperature of DINO's teacher. DINO's code changes it per epoch
  instead of per step, and reaches `end` in the last epoch of the warmup.

  Args:
    start: first value.
    end: final value, larger or smaller than `start`.
    warmup_steps: number of steps to reach `end`; 0 for a constant `end`.

  Raises:
    ValueError: if `warmup_steps` is negative.
  """
  if warmup_steps < 0:
    raise ValueError(f"warmup_steps={warmup_steps} must be at least 0")

  def schedule(step: Step) -> Scalar:
    fraction = jnp.asarray(step / float(max(warmup_steps, 1)))
    return _between(start, end, fraction, step=step, last_step=warmup_steps)

  return schedule


def frozen_until(steps: int) -> Schedule:
  """Learning-rate multiplier: 0 before step `steps`, then 1.

  Used for prototypes that are frozen at the start (SwAV, DINO).

  Args:
    steps: number of steps with value 0.

  Raises:
    ValueError: if `steps` is negative.
  """
  if steps < 0:
    raise ValueError(f"steps={steps} of a frozen group must be at least 0")

  def schedule(step: Step) -> Scalar:
    return jnp.where(step < steps, 0.0, 1.0)

  return schedule
