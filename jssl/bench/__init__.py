"""Benchmarks, `python -m jssl.bench NAME`."""
