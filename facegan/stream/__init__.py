"""Shards → batches on a device: order, decoding, caching."""

from facegan.stream.batches import Batches
from facegan.stream.dataset import FaceShards
from facegan.stream.foreign import ForeignShards
from facegan.stream.open import open_faces

__all__ = ["Batches", "FaceShards", "ForeignShards", "open_faces"]
