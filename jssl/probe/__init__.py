"""Probes of checkpoints: frozen features and small classifiers."""
