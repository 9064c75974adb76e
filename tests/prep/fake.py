"""A detector whose faces the test decides, and photographs made on the spot."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from facegan.config import PrepConfig
from facegan.faces.detect import Detector, Face
from facegan.prep.chunk import Chunk, ChunkResult, Item, process_chunk
from facegan.prep.sources.base import Entry


def photo(width: int = 200, height: int = 200, seed: int = 0, kind: str = "JPEG") -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


TINY = PrepConfig(detector="none", crop="squash", size=28, shard_size=2)  # hardly any time per photograph


def write_photos(folder: Path, count: int, side: int = 60) -> Path:
    """A folder with 00.jpg, 01.jpg, …"""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        (folder / f"{i:02d}.jpg").write_bytes(photo(side, side, seed=i))
    return folder


def noise(side: int = 200) -> bytes:
    """As sharp as a photograph can be."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def bomb(width: int = 20_000, height: int = 20_000) -> bytes:
    """The header of a PNG that would take a gigabyte to decode."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def face_at(x: float, y: float, side: float = 60, score: float = 0.9, upside_down: bool = False) -> Face:
    """A face whose box is centred on (x, y)."""
    points = [(-0.2, -0.1), (0.2, -0.1), (0.0, 0.1), (0.0, 0.3), (-0.4, 0.0), (0.4, 0.0)]
    sign = -1 if upside_down else 1
    keypoints = tuple((x + sign * side * dx, y + sign * side * dy) for dx, dy in points)
    return Face((x - side / 2, y - side / 2, side, side), keypoints, score)


class FakeDetector:
    """Says the same faces for every photograph, those at ``min_score`` and above."""

    def __init__(self, *faces: Face) -> None:
        self.faces = faces
        self.seen: list[tuple[int, ...]] = []

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        self.seen.append(rgb.shape)
        return [face for face in self.faces if face.score >= min_score]

    def close(self) -> None:
        pass


class Memory:
    """A reader over photographs in memory."""

    def __init__(self, photos: dict[bytes, bytes]) -> None:
        self.photos = photos

    def read(self, entry: Entry) -> bytes:
        return self.photos[entry.name]

    def close(self) -> None:
        pass


def run_chunk(tmp_path: Path, photos: dict[bytes, bytes], detector: Detector, /, **settings) -> ChunkResult:
    entries = tuple(Item(name, Entry(name, len(data))) for name, data in photos.items())
    chunk = Chunk(0, entries)
    out = tmp_path / "000000.tar"
    return process_chunk(chunk, PrepConfig.of(settings), Memory(photos), detector, out, tmp_path / "x.partial")
