"""Judging a run from its checkpoints: frozen features and small classifiers."""
