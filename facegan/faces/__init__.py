"""Photographs → pixels → faces: decode, detect, crop."""
