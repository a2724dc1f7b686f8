"""Checkpoints of a run: save, restore, verify."""

from jssl.checkpoint.best import best_step, pin_best
from jssl.checkpoint.checkpointer import (
  X64,
  Checkpoints,
  NotSavedError,
  restore,
  restore_backbone,
  steps,
)
from jssl.checkpoint.manifest import CheckpointError

__all__ = [
  "X64",
  "CheckpointError",
  "Checkpoints",
  "NotSavedError",
  "best_step",
  "pin_best",
  "restore",
  "restore_backbone",
  "steps",
]
