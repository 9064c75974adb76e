"""A dataset with two splits, made by hand: noise for faces, and cards beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facegan.config import PrepConfig
from facegan.files import sha256_file, write_json
from facegan.manifests import KnownDataset
from facegan.shards.cards import write_cards
from facegan.shards.format import DATASET_FILE, PHOTOS_FILE, DatasetInfo, SampleRecord, ShardEntry, Totals, shard_name
from facegan.shards.images import encode_image
from facegan.shards.photos import SCHEMA, write_photos
from facegan.shards.writer import ShardWriter

SHARDS = (("train", 0, 3), ("train", 1, 2), ("val", 0, 4))  # split, number, samples


def face(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def make_dataset(
    out: Path,
    *,
    image_format: str = "png",
    shards: Sequence[tuple[str, int, int]] = SHARDS,
    known: KnownDataset | None = None,
) -> DatasetInfo:
    """Shards of noise, photos.parquet with one reject, dataset.json and the cards."""
    out.mkdir(parents=True)
    entries, rows = [], []
    for split, number, samples in shards:
        name = shard_name(split, number)
        with ShardWriter(out / name, out / "x.partial") as shard:
            for _ in range(samples):
                row = _row(len(rows) + 1, split, name)
                meta = SampleRecord(
                    path=row["path"],
                    sha256=row["sha256"],
                    width=178,
                    height=218,
                    box=[1, 2, 3, 4],
                    keypoints=[[1, 2]] * 6,
                    score=0.5,
                    quad=[[0, 0]] * 4,
                    label=len(rows) % 3,
                ).to_json()
                shard.add(row["keys"][0], image_format, encode_image(face(len(rows)), image_format), meta)
                rows.append(row)
            written = shard.commit()
        assert written is not None
        entries.append(ShardEntry(name=name, split=split, **vars(written)))  # type: ignore[arg-type] # the literal
    rows.append(
        {
            **_row(len(rows) + 1, "train", ""),
            "outcome": "rejected",
            "reason": "no_face",
            "keys": [],
            "scores": [],
            "box": [],
        }
    )
    write_photos(out / PHOTOS_FILE, [pa.Table.from_pylist(rows, SCHEMA)])
    faces = len(rows) - 1
    info = DatasetInfo(
        data_set=known.name if known else "",
        settings={**PrepConfig().model_dump(), "format": image_format, "models": ["ab" * 32]},
        versions={"facegan": "0.1.0", "numpy": np.__version__},
        fingerprint="cd" * 32,
        totals=Totals(photos=len(rows), kept=faces, rejected={"no_face": 1}, ignored={".txt": 2, ".|`<b>\n": 1},
                      faces=faces, bytes=sum(entry.bytes for entry in entries)),
        shards=tuple(entries),
        photos_sha256=sha256_file(out / PHOTOS_FILE),
    )  # fmt: skip
    write_cards(out, info, known)
    write_json(out / DATASET_FILE, info.model_dump(mode="json"))
    return info


def _row(number: int, split: str, shard: str) -> dict[str, Any]:
    key = f"{number:06d}"
    of_file = {"path": f"{key}.jpg", "bytes": 1000 + number, "sha256": "ef" * 32, "width": 178, "height": 218}
    of_faces = {"outcome": "kept", "reason": "", "faces": 1, "scores": [0.5], "box": [1.0] * 4, "keys": [key]}
    return {**of_file, **of_faces, "split": split, "shard": shard}


def readme_code(out: Path, tool: str) -> str:
    """The lines of README.md that open the dataset with a tool, with this folder in the place of ``out``."""
    blocks = (out / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    (code,) = (block.split("```")[0] for block in blocks if block.startswith(f"import {tool}\n"))
    return code.replace('"/path/to/out', '"out').replace('"out', f'"{out}')


def front_matter(readme: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(readme.split("---\n")[1])


def json_of(path: Path) -> Any:
    return json.loads(path.read_bytes())
