"""Backbones of runs, read from the checkpoints of their workdirs."""

import os
from collections.abc import Callable
from typing import Any

import jax

from jssl import checkpoint
from jssl.config.parse import parse
from jssl.config.schema import Config
from jssl.runtime.workdir import load_config
from jssl.typing import Variables


def load_backbone(
  workdir: str | os.PathLike, step: int | None = None
) -> tuple[Callable[..., Any], Variables]:
  """Returns a trained encoder as `(apply, variables)`.

  Example:
    >>> apply, variables = jssl.load_backbone("runs/quickstart")
    >>> h = apply(variables, images)

  Args:
    workdir: workdir of the run.
    step: step of the checkpoint; None takes the best by the probe's validation
      accuracy, or the last where nothing was probed.

  Returns:
    apply: maps variables and images [n, h, w, c] in [0, 1] to features [n, d].
    variables: parameters and batch statistics of the backbone.

  Raises:
    FileNotFoundError: if the run or the checkpoint does not exist.
    CheckpointError: if the checkpoint is damaged.
  """
  backbone = parse(load_config(workdir), Config).model.backbone()
  steps = checkpoint.steps(workdir)
  if not steps:
    raise FileNotFoundError(f"{workdir} has no finished checkpoint")
  if step is None:
    best = checkpoint.best_step(workdir)
    step = best if best in steps else steps[-1]
  if step not in steps:
    raise FileNotFoundError(
      f"{workdir} has no checkpoint of step {step}; it has {steps}"
    )

  def apply(variables: Variables, images: jax.Array) -> jax.Array:
    features, _ = backbone.apply(variables, images, train=False)
    return features

  return apply, checkpoint.restore_backbone(workdir, step)
