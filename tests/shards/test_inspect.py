"""Samples by key, histograms of scores and face sizes, faces as a folder of images."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facegan.console import Console, print_bars
from facegan.errors import DatasetError, FaceganError
from facegan.shards.format import DatasetInfo, ShardEntry
from facegan.shards.inspect import MEASURES, draw_summary, extract, find_sample, size_edges, spread, summarise
from tests.recipes.program import facegan
from tests.shards.made import Made, make_dataset, members, reseal, rewrite

PHOTOS = [
    Made("a.jpg", scores=[0.5], side=40),
    Made("b.jpg", scores=[0.7], side=50),
    Made("c.jpg", scores=[0.15, 0.7], side=59.5),
    Made("d.png", scores=[1.0], side=60, label=3),
    Made("e.jpg", scores=[0.72], reason="off_edge"),
    Made("f.jpg", scores=[0.42], found=0, reason="no_face"),
    Made("v.jpg", scores=[0.9], side=44, split="val"),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("made") / "out", PHOTOS, size=32)


def test_histograms_count_every_face(out: Path) -> None:
    found = summarise(out, DatasetInfo.read(out), Console(quiet=True))
    scores, sizes = found["scores"], found["face_sizes"]
    assert (len(scores.counts), sum(scores.counts), scores.median) == (20, 7, 0.7)
    # 0.15 and 0.7 as float32 are just off the edges of their bins.
    assert scores.bars()[0] == ("0.15 – 0.20", 1)
    assert dict(scores.bars())["0.70 – 0.75"] == 3
    assert scores.bars()[-1] == ("0.95 – 1.00", 1)
    assert (scores.limits, scores.headline) == ((0.15, 1.0), "score of the faces found: median 0.7, 7 faces")
    assert (sum(sizes.counts), sizes.values, sizes.total, sizes.median) == (6, 6, 6, 54.8)
    assert sizes.edges[0] <= 40
    assert sizes.edges[-1] >= 60


def test_unreadable_files_are_warned_of(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(out, tmp_path / "copy")
    (copy / "photos.parquet").unlink()
    assert set(summarise(copy, DatasetInfo.read(copy), Console(quiet=True))) == {"face_sizes", *MEASURES}
    assert "photos.parquet is missing" in capsys.readouterr().err
    (copy / "train-000000.tar").unlink()
    (copy / "detections.parquet").unlink()
    assert summarise(copy, DatasetInfo.read(copy), Console(quiet=True)) == {}


@given(st.floats(0.5, 50_000), st.floats(1, 1000))
@example(90.75, 9.0)
def test_edges_are_few_and_ordered(least: float, ratio: float) -> None:
    most = least * ratio
    edges = size_edges(least, most)
    assert edges[0] <= least <= most <= edges[-1]
    assert edges == sorted(set(edges))
    assert 2 <= len(edges) <= 36


@pytest.mark.parametrize(("shards", "most", "most_shards"), [(3, 100, 10), (3, 7, 10), (50, 40, 8), (0, 5, 5)])
def test_samples_are_spread_evenly(shards: int, most: int, most_shards: int) -> None:
    info = DatasetInfo.model_construct(shards=(ShardEntry.model_construct(samples=10),) * shards)
    positions = [numbers for _, numbers in spread(info, most, most_shards)]
    counts = [len(numbers) for numbers in positions]
    assert sum(counts) == min(most, 10 * shards)
    assert len(counts) <= most_shards
    assert not counts or max(counts) - min(counts) <= 1
    assert all(0 <= i < 10 for numbers in positions for i in numbers)


def test_summary_is_drawn_without_pyplot(out: Path, tmp_path: Path) -> None:
    info = DatasetInfo.read(out)
    assert draw_summary(info, {}, "jpeg")[:2] == b"\xff\xd8"
    script = (
        "import sys\nfrom facegan.cli.app import main\ntry: main()\n"
        "finally: print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, "inspect", str(out), "--plot", str(tmp_path / "a.png"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert picture is not None
    assert picture.shape == (1600, 1500, 3)


def test_inspect_prints_bars_and_json(out: Path) -> None:
    done = facegan("inspect", out)
    assert (done.code, done.stderr) == (0, "")
    assert "rejected: off_edge" in done.stdout
    assert f"0.70 – 0.75  {'#' * 40}  3" in done.stdout
    found = json.loads(facegan("inspect", out, "--json").stdout)
    histograms = found.pop("histograms")
    assert found == json.loads((out / "dataset.json").read_text())
    assert set(histograms["scores"]) == {"edges", "counts", "median", "values", "total", "quantiles"}


@pytest.mark.parametrize(("encoding", "block"), [("ascii", "#"), ("utf-8", "█")])
def test_bars_of_each_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str, block: str) -> None:
    written = io.BytesIO()
    file = io.TextIOWrapper(written, encoding=encoding)
    monkeypatch.setattr("sys.stdout", file)
    print_bars("title", [("a", 4), ("bb", 1), ("c", 0)], width=4)
    lines = ["", "title", f" a  {block * 4}  4", f"bb  {block}     1", " c        0"]
    assert written.getvalue().decode(encoding).splitlines() == lines


def test_sample_by_key_and_path(out: Path) -> None:
    info = DatasetInfo.read(out)
    assert find_sample(out, info, "c=f1").meta.score == 0.7
    assert find_sample(out, info, "d.png").key == "d=2Epng"
    assert find_sample(out, info, "v").split == "val"
    with pytest.raises(DatasetError, match=r"e.jpg has no face: it was rejected as off_edge"):
        find_sample(out, info, "e.jpg")
    with pytest.raises(DatasetError, match=r"has no sample and no photograph x"):
        find_sample(out, info, "x")
    fields = json.loads(facegan("inspect", out, "c=f1", "--json").stdout)
    assert list(fields)[:5] == ["key", "split", "shard", "path", "sha256"]
    assert (fields["shard"], fields["score"], fields["label"]) == ("train-000000.tar", 0.7, 0)


@pytest.mark.parametrize(
    ("photos", "files"),
    [
        ([Made("a.jpg"), Made("b.jpg")], {"a.jpg", "b.jpg"}),
        ([Made("a.jpg"), Made("b.jpg", split="test")], {"train/a.jpg", "test/b.jpg"}),
        ([Made("a.jpg", label=2), Made("b.jpg")], {"2/a.jpg", "0/b.jpg"}),
        ([Made("a.jpg", label=2), Made("b.jpg", split="val")], {"train/2/a.jpg", "val/0/b.jpg"}),
    ],
)
def test_extract_uses_few_folders(photos: list[Made], files: set[str], tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "out", photos, size=32, format="jpg")
    done = facegan("inspect", made, "--extract", tmp_path / "faces", "--json")
    assert json.loads(done.stdout) == {"faces": 2, "out": str(tmp_path / "faces")}
    written = {path: path.read_bytes() for path in (tmp_path / "faces").rglob("*.*")}
    assert {str(path.relative_to(tmp_path / "faces")) for path in written} == files
    stored = {name: data for shard in made.glob("*.tar") for name, data in members(shard).items()}
    assert all(data == stored[path.name] for path, data in written.items())
    assert {path.name for path in tmp_path.iterdir()} == {"out", "faces"}


def test_extract_writes_all_or_nothing(out: Path, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "mine.txt").write_text("mine")
    with pytest.raises(FaceganError, match="already exists and is not empty"):
        extract(out, tmp_path / "faces")
    copy = shutil.copytree(out, tmp_path / "copy")
    files = members(copy / "val-000000.tar")
    rewrite(copy / "val-000000.tar", {"../../v.png": files["v.png"], "../../v.json": files["v.json"]})
    reseal(copy)
    with pytest.raises(DatasetError, match="is no file name that facegan writes"):
        extract(copy, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"faces", "copy"}


def test_full_disk_is_one_sentence(out: Path, tmp_path: Path) -> None:
    """By the same path: a file larger than this process may write."""
    command = f'ulimit -f 1; exec "{sys.executable}" -m facegan inspect "{out}" --extract "{tmp_path / "faces"}"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    limit = "grew past this file system's limit. Choose another disk.\n"
    assert done.stderr == f"error: A file in {tmp_path / 'faces'} {limit}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--extract", "x"], "--extract writes all faces"),
        (["--source", "x"], "--source"),
        (["--plot", "a.gif"], ".png or .jpg"),
    ],
)
def test_useless_options_are_refused(out: Path, arguments: list[str], message: str) -> None:
    done = facegan("inspect", out, *arguments)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr
