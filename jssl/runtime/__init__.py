"""Processes, signals, clocks and files of a run."""
