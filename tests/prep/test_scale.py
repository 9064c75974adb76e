"""Memory and second starts at tens of thousands of photographs: what holds there holds for millions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys, time
from facegan.config import PrepConfig
from facegan.system import peak_memory_bytes
from facegan.prep.prepare import prepare
if __name__ == "__main__":
    photos, out = sys.argv[1:]
    config = PrepConfig(crop="dcgan108", detector="none", format="jpg")
    start = time.process_time()
    result = prepare(photos, out, config, workers=2)
    found = {"kept": result.kept, "worker": result.worker_peak_bytes, "parent": peak_memory_bytes()}
    print(json.dumps({**found, "cpu_seconds": time.process_time() - start}))
"""


def run(photos: Path, out: Path) -> dict[str, float]:
    script = photos.parent / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(photos), str(out)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def runs(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict]]:
    """What a run of so many photographs took, and what a second start took that found nothing to do."""
    Image.new("RGB", (178, 218)).save(flat := tmp_path_factory.mktemp("flat") / "flat.jpg")  # is read quickly
    found = {}
    for count in (3_000, 15_000):
        photos = tmp_path_factory.mktemp("many") / "photos"
        photos.mkdir()
        for i in range(count):
            (photos / f"{i:07d}.jpg").hardlink_to(portraits / f"{i % 60 + 1:06d}.jpg" if i < 3_000 else flat)
        found[count] = [run(photos, photos.parent / "out") for _ in range(2)]
    return found


def test_memory_is_bounded(runs: dict[int, tuple[dict, dict]]) -> None:
    few, many = runs[3_000], runs[15_000]
    assert [found["kept"] for found in (*few, *many)] == [3_000, 3_000, 15_000, 15_000]
    # At most 300 MB for a million (257 were measured), with the buffers below.
    assert few[0]["parent"] < 175e6
    assert few[1]["parent"] < 150e6
    assert many[0]["worker"] - few[0]["worker"] < 10e6
    # Buffers that fill up once take 25 MB; each photograph may take 120 bytes more.
    assert many[0]["parent"] - few[0]["parent"] < 25e6 + 120 * 12_000
    assert many[1]["parent"] - few[1]["parent"] < 10e6 + 120 * 12_000


def test_second_start_is_quick(runs: dict[int, tuple[dict, dict]]) -> None:
    """In CPU time, which other programs on the machine stretch less than wall time: 9 µs a photograph were measured."""
    taken = runs[15_000][1]["cpu_seconds"] - runs[3_000][1]["cpu_seconds"]
    assert taken / 12_000 < 20e-6
