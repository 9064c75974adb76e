"""Drawn portraits: the photographs of `facegan demo`, and ground truth for tests."""

from facegan.demo.portraits import Portrait, draw_portrait, write_portraits

__all__ = ["Portrait", "draw_portrait", "write_portraits"]
