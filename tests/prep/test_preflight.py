"""The look at a few photographs before a run, and --margin auto."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from facegan.config import PrepConfig
from facegan.errors import DatasetError
from facegan.faces.decode import Photo
from facegan.prep import chunk, preflight
from facegan.prep import prepare as prepare_module
from facegan.prep.prepare import PrepResult, prepare
from facegan.shards.verify import verify
from tests.prep.fake import photo
from tests.prep.outputs import digest
from tests.recipes.program import facegan
from tests.recording import RecordingConsole

CLOSE = PrepConfig(size=28, detector="tests.prep.detectors:Close")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """201 photographs from 60 to 78 pixels wide, the sides even but for the widest."""
    folder = tmp_path_factory.mktemp("close")
    by_side = {side: photo(side, side) for side in range(60, 80)}
    for i in range(201):
        (folder / f"{i:03d}.jpg").write_bytes(by_side[60 + 2 * (i % 10) + (i % 10 == 9)])
    return folder


def run(photos: Path, out: Path, **options: Any) -> PrepResult:
    return prepare(photos, out, CLOSE, workers=0, **options)


def outside(side: int, margin: float) -> float:
    """Share of the crop of `Close`'s face outside a square photograph, as rectangles."""
    crop = 1.6 * 54 * margin
    middle = side / 2 - 0.06 * 54
    visible = min(side, middle + crop / 2) - max(0, middle - crop / 2)
    return 1 - min(side, crop) * visible / crop**2


def test_margin_auto_is_the_largest_that_fits(photos: Path, tmp_path: Path) -> None:
    result = run(photos, tmp_path / "auto", min_score=0.4)
    expected = max(m for m in preflight.MARGINS if all(outside(side, m) <= 0.2 for side in range(60, 80)))
    assert result.preflight is not None
    assert 0.5 < expected < 0.8
    assert (result.preflight["margin"], result.kept) == (expected, 201)
    given = run(photos, tmp_path / "given", min_score=0.4, margin=expected)
    assert given.preflight is not None
    assert digest(tmp_path / "auto") == digest(tmp_path / "given")


def test_additions_use_the_recorded_margin(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "out", limit=5)
    run(photos, tmp_path / "out", min_yield=0)
    assert json.loads((tmp_path / "out/dataset.json").read_text())["settings"]["margin"] == 1


def test_low_yield_stops_before_writing(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"(?s)Only 0 of 128 .*off_edge.*--min-yield 0.2.*Nothing .*--crop box +90%"):
        run(photos, tmp_path / "out", margin=1.2, max_outside=0.0)
    assert not (tmp_path / "out").exists()
    assert run(photos, tmp_path / "out", margin=1.2, max_outside=0.0, min_yield=0).kept == 0


def test_alternatives_keep_what_they_promise(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all photographs are looked at, the shares are exact."""
    monkeypatch.setattr(preflight, "PHOTOS", 1000)
    found = run(photos, tmp_path / "out", margin=0.9, min_yield=0).preflight
    assert found is not None
    assert {one["options"] for one in found["alternatives"]} == {
        "--margin 0.75", "--crop box", "--max-outside 0.5", "--min-score 0.3"
    }  # fmt: skip
    assert found["alternatives"] == sorted(found["alternatives"], key=lambda one: -one["share"])
    for number, one in enumerate(found["alternatives"]):
        name, value = one["options"].removeprefix("--").split()
        changed = {"margin": 0.9} | {name.replace("-", "_"): value}
        kept = run(photos, tmp_path / f"{number}", **(changed | ({"margin": 1} if name == "crop" else {}))).kept
        assert one["share"] == pytest.approx(kept / 201, abs=1e-4)


def test_few_photographs_need_no_look(photos: Path, tmp_path: Path) -> None:
    assert run(photos, tmp_path / "out", limit=200).preflight is None


def test_dry_run_has_the_same_facts(photos: Path, tmp_path: Path) -> None:
    given = [str(photos), str(tmp_path / "out"), "--detector", "none", "--crop", "dcgan108", "--size", "28", "--json"]
    found = json.loads(facegan("prep", *given, "--dry-run").stdout)["preflight"]
    assert (found["kept"], found["rejected"]) == (0, {"too_small": 128})
    assert found["alternatives"] == [{"options": "--crop squash", "share": 1}]
    done = facegan("prep", *given, "--min-yield", "0", "--workers", "0")
    assert "Other settings would keep:\n  --crop squash  100%\n" in done.stderr
    real = json.loads(done.stdout)["preflight"]
    assert {**real, "about_seconds": 0} == {**found, "about_seconds": 0}


def test_bad_chunk_is_reported_at_once(photos: Path, tmp_path: Path) -> None:
    console = RecordingConsole()
    run(photos, tmp_path / "out", margin=1.2, max_outside=0.0, min_yield=0, shard_size=50, console=console)
    (early,) = [warning for warning in console.warnings if warning.startswith("Chunk")]  # the first to be committed
    assert early.partition(": ")[2] == (
        "50 of 50 photographs rejected, 50 off_edge: more than 0% of the crop is outside the photograph. "
        "A higher --max-outside keeps more, and so does a smaller --margin."
    )


def test_copies_alone_need_no_look(photos: Path, tmp_path: Path) -> None:
    """More than 200 new photographs, all of which the dataset has under other names."""
    source = tmp_path / "photos"
    shutil.copytree(photos, source / "a")
    run(source / "a", tmp_path / "out", limit=200, dedup="exact", min_score=0.4)
    shutil.copytree(photos, source / "a/more")
    assert run(source / "a", tmp_path / "out", dedup="exact", min_score=0.4).preflight is None


def test_crash_of_a_decoder_is_one_photograph(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Surprising(Photo):
        def __init__(self, data: bytes) -> None:
            super().__init__(data)
            if self.width == 60:
                raise ZeroDivisionError

    monkeypatch.setattr(chunk, "Photo", Surprising)
    result = run(photos, tmp_path / "out", min_score=0.4, margin=0.5)
    assert result.preflight is not None
    assert set(result.preflight["rejected"]) == {"crashed"}
    assert result.rejected == {"crashed": 21}


def test_force_makes_chunks_of_an_unfinished_addition_again(photos: Path, tmp_path: Path) -> None:
    """They are the whole of the new dataset, and are deleted with the old one."""
    source, out = tmp_path / "photos", tmp_path / "out"
    (source / "a").mkdir(parents=True)
    for path in sorted(photos.iterdir())[:4]:
        shutil.copy(path, source / "a")
    run(source, out, limit=2, shard_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            run(source, out, shard_size=2)
    for path in sorted((source / "a").iterdir())[:2]:
        path.unlink()
    assert run(source, out, shard_size=2, force=True).photos == 2
    assert verify(out, deep=True).ok


def stop(*_: object) -> None:
    raise KeyboardInterrupt
