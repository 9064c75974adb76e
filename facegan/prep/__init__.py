"""Photographs → dataset: sources, chunk (the pure unit of work), engines, prepare (plan, run, finish)."""

from facegan import faces  # noqa: F401 - imported before OpenCV, whose limits it sets
