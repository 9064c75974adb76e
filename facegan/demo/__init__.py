"""Drawn portraits: the photographs of `facegan demo`, and ground truth for tests."""

from facegan.demo.portraits import Keypoints, Portrait, draw_portrait, draw_portraits, write_portraits

__all__ = ["Keypoints", "Portrait", "draw_portrait", "draw_portraits", "write_portraits"]
