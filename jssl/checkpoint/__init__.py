"""Checkpoints of a run: save, restore, verify."""

from jssl.checkpoint.checkpointer import (
  Checkpoints,
  DataIterator,
  NotSavedError,
  best_step,
  pin_best,
  restore,
  restore_backbone,
  steps,
)
from jssl.checkpoint.manifest import CheckpointError

__all__ = [
  "CheckpointError",
  "Checkpoints",
  "DataIterator",
  "NotSavedError",
  "best_step",
  "pin_best",
  "restore",
  "restore_backbone",
  "steps",
]
