"""Checks and rates on a GPU: `python -m benchmarks gpu`."""
