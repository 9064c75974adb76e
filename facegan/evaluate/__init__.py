"""Samples against real faces."""

from facegan.evaluate.swd import Projections, project, sliced_wasserstein

__all__ = ["Projections", "project", "sliced_wasserstein"]
