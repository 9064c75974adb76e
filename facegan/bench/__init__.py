"""Benchmarks of facegan against plain implementations of the same job, in one run on one machine."""
