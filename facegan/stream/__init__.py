"""Shards → batches on a device: order, decoding, caching."""

from facegan.stream.batches import Batches
from facegan.stream.dataset import FaceShards

__all__ = ["Batches", "FaceShards"]
