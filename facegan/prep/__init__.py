"""Photographs → dataset: sources, chunk (the pure unit of work), engines, prepare (plan, run, finish)."""
