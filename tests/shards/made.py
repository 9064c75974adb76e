"""Datasets written without photographs or a detector: the test decides what each sample is."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facegan.config import PrepConfig
from facegan.faces.measure import Measures
from facegan.files import make_folder, sha256_file, write_json
from facegan.shards.dataset import DatasetWriter
from facegan.shards.detections import SCHEMA as DETECTIONS
from facegan.shards.format import DATASET_FILE, DETECTIONS_FILE, PHOTOS_FILE, SPLITS, SampleRecord, sample_key
from facegan.shards.images import encode_image
from facegan.shards.photos import SCHEMA
from facegan.shards.writer import ShardWriter


@dataclass
class Made:
    """A photograph with one face per score, or a rejected one. Its pixels follow from its path and ``look``."""

    path: str
    scores: list[float] = field(default_factory=lambda: [0.9])
    reason: str = ""
    label: int = 0
    width: int = 178
    height: int = 218
    split: str = "train"
    side: float = 100.0  # of the crop
    look: int = 0
    content: str = ""  # equal for equal files; by default that of the path
    hash: int = 0
    identity: str = ""
    found: int | None = None  # faces above --min-score; None: all of ``scores``

    @property
    def keys(self) -> list[str]:
        return [] if self.reason else [sample_key(self.path.encode(), i) for i in range(len(self.scores))]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(f"{self.content or self.path} {self.look}".encode()).hexdigest()

    def pixels(self, face: int = 0, size: int = 64, channels: int = 3) -> np.ndarray:
        rng = np.random.default_rng(int(self.sha256[:8], 16) + face)
        return rng.integers(0, 256, (size, size, channels), dtype=np.uint8)

    def image(self, face: int, config: PrepConfig) -> bytes:
        return encode_image(self.pixels(face, config.size, config.channels), config.format)

    def meta(self, face: int) -> bytes:
        a, b = 20.0, 20.0 + self.side
        return SampleRecord(
            path=self.path,
            sha256=self.sha256,
            width=self.width,
            height=self.height,
            box=[30, 40, 50, 60],
            keypoints=[[50, 60], [80, 60], [65, 75], [65, 90], [40, 65], [90, 65]],
            score=self.scores[face],
            quad=[[a, a], [a, b], [b, b], [b, a]],
            label=self.label,
        ).to_json()

    def row(self, shard: str) -> dict[str, Any]:
        fields = {
            name: getattr(self, name) for name in ("path", "sha256", "width", "height", "reason", "scores", "keys")
        }
        return {
            **fields,
            "bytes": 1000 + len(self.path),
            "outcome": "rejected" if self.reason else "kept",
            "faces": len(self.scores) if self.found is None else self.found,
            "box": [30.0, 40.0, 50.0, 60.0] if self.scores else [],
            "duplicate_of": "",
            "identity": self.identity,
            "split": self.split,
            "shard": shard if self.keys else "",
        }

    def detections(self) -> list[dict[str, Any]]:
        box, points = [30.0, 40.0, 50.0, 60.0], [50.0, 60, 80, 60, 65, 75, 65, 90, 40, 65, 90, 65]
        return [
            {"path": self.path, "sha256": self.sha256, "index": number, "key": key, "detector": "mediapipe"}
            | {"rotation": 0, "faint": False, "is_face": True, "box": box, "keypoints": points, "score": score}
            | vars(Measures(self.side, 0.0, 0.0, yaw=number * 10.0, pitch=1.0, roll=2.0, sharpness=self.width * 2.0))
            | {"hash": self.hash}
            for number, (key, score) in enumerate(zip(self.keys, self.scores, strict=False))
        ]


def make_dataset(out: Path, photos: list[Made], *, data_set: str = "", **settings: Any) -> Path:
    """Chunks of ``shard_size`` photographs, split by split, as facegan prep would have written them."""
    config = PrepConfig.of({"shard_size": 4, **settings})
    writer, rows, detections = DatasetWriter(make_folder(out)), [], []
    for split in SPLITS:
        inside, name = iter([photo for photo in photos if photo.split == split]), ""
        while chunk := list(itertools.islice(inside, config.shard_size)):
            name = writer.next_name(split) if any(photo.keys for photo in chunk) else name
            with ShardWriter(out / name, out / ".partial") as shard:
                for photo in chunk:
                    for face, key in enumerate(photo.keys):
                        shard.add(key, config.format, photo.image(face, config), photo.meta(face))
                if stats := shard.commit():
                    writer.add_shard(split, vars(stats))
            rows += [photo.row(name) for photo in chunk]
            detections += [row for photo in chunk for row in photo.detections()]
    tables = pa.Table.from_pylist(rows, schema=SCHEMA), pa.Table.from_pylist(detections, schema=DETECTIONS)
    writer.write_tables([tables], [{"detector": "mediapipe"}])
    writer.write(writer.info({**config.model_dump(), "models": ["0" * 64]}, {"facegan": "1"}, data_set))
    return out


def reseal(out: Path) -> None:
    """Make dataset.json agree with the bytes of the files next to it."""
    info = json.loads((out / DATASET_FILE).read_text())
    for entry in info["shards"]:
        path = out / entry["name"]
        entry["bytes"], entry["sha256"] = path.stat().st_size, sha256_file(path)
    info["totals"]["bytes"] = sum(entry["bytes"] for entry in info["shards"])
    info["photos_sha256"] = sha256_file(out / PHOTOS_FILE)
    info["detections_sha256"] = sha256_file(out / DETECTIONS_FILE) if (out / DETECTIONS_FILE).is_file() else ""
    write_json(out / DATASET_FILE, info)


def flip(path: Path, at: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)


def members(shard: Path) -> dict[str, bytes]:
    """A tar's files by name, as tarfile reads it."""
    with tarfile.open(shard) as tar:
        return {member.name: file.read() for member in tar if (file := tar.extractfile(member))}


def rewrite(shard: Path, files: dict[str, bytes]) -> None:
    """Write the tar with tarfile, with headers like ours; compressed if it is a .gz."""
    with tarfile.open(shard, "w:gz" if shard.suffix == ".gz" else "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


# A dataset of two splits, and readers of its text files

TRAIN = [Made(f"{i:06d}.jpg", label=(i - 1) % 3) for i in range(1, 6)]  # in shards of 4 and 1
VAL = [Made(f"{i:06d}.jpg", label=(i - 1) % 3, split="val") for i in range(6, 10)]
PHOTOS = [*TRAIN, *VAL, Made("000010.jpg", reason="no_face", scores=[], split="val")]


def json_of(path: Path) -> Any:
    return json.loads(path.read_bytes())


def front_matter(readme: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(readme.split("---\n")[1])


def opened(out: Path, tool: str) -> dict[str, Any]:
    """The variables that README.md's lines for a tool define."""
    blocks = (out / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    (code,) = (block.split("```")[0] for block in blocks if block.startswith(f"import {tool}\n"))
    names: dict[str, Any] = {}
    exec(code.replace('"/path/to/out', '"out').replace('"out', f'"{out}'), names)  # noqa: S102 # of our own README
    return names
