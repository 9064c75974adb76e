"""Photographs → dataset: sources, chunk (the pure unit of work), engines, prepare (plan, run, finish)."""

from facegan import faces as faces  # ahead of OpenCV, which it sets limits to
