"""A dataset of two splits with cards, and readers of its text files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.shards.made import Made

TRAIN = [Made(f"{i:06d}.jpg", label=(i - 1) % 3) for i in range(1, 6)]  # in shards of 4 and 1
VAL = [Made(f"{i:06d}.jpg", label=(i - 1) % 3, split="val") for i in range(6, 10)]
PHOTOS = [*TRAIN, *VAL, Made("000010.jpg", reason="no_face", scores=[], split="val")]


def json_of(path: Path) -> Any:
    return json.loads(path.read_bytes())


def front_matter(readme: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(readme.split("---\n")[1])


def readme_code(out: Path, tool: str) -> str:
    """The lines of README.md that open the dataset with a tool, with the path of ``out`` filled in."""
    blocks = (out / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    (code,) = (block.split("```")[0] for block in blocks if block.startswith(f"import {tool}\n"))
    return code.replace('"/path/to/out', '"out').replace('"out', f'"{out}')
