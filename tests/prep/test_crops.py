"""Crops without a detector, detectors of one's own, and photographs that lie on a side: from files to faces."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facegan import FaceShards
from facegan.config import PrepConfig
from facegan.demo import Portrait, draw_portrait
from facegan.errors import DatasetError, ModelError, SettingsError
from facegan.faces.detect import Detector, make_detector
from facegan.prep.prepare import plan_prepare, prepare
from facegan.prep.request import PrepareRequest, find_models
from facegan.shards.format import DatasetInfo
from facegan.shards.verify import verify
from tests.faces.supersample import psnr, supersampled
from tests.prep.fake import FakeDetector, face_at, photo, run_chunk
from tests.prep.handmade import encoded
from tests.prep.outputs import samples


def test_dataset_without_a_detector(portraits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEGAN_MODELS", str(tmp_path))  # no model is looked for
    config = PrepConfig(crop="dcgan108", detector="none")
    assert prepare(portraits, tmp_path / "out", config, workers=0, limit=10).kept == 10
    pixels, meta = FaceShards(tmp_path / "out")[7]
    assert {name: meta[name] for name in ("width", "height", "box", "keypoints", "score", "turned", "label")} == {
        "width": 178, "height": 218, "box": [], "keypoints": [], "score": 0.0, "turned": 0, "label": 0
    }  # fmt: skip
    assert meta["quad"] == [[35, 55], [35, 163], [143, 163], [143, 55]]
    source = np.asarray(Image.open(portraits / meta["path"]))
    assert psnr(pixels, supersampled(source, np.array(meta["quad"]), 64)) >= 30
    assert DatasetInfo.read(tmp_path / "out").settings["models"] == []
    assert verify(tmp_path / "out").ok
    with pytest.raises(DatasetError, match=r"prepared with --crop dcgan108.*--crop ncsn140"):
        plan_prepare(PrepareRequest(portraits, tmp_path / "out", config.model_copy(update={"crop": "ncsn140"})))


def test_fixed_crop_records_the_face(tmp_path: Path) -> None:
    run_chunk(tmp_path, {b"1.jpg": photo(178, 218)}, FakeDetector(face_at(60, 60, 40)), crop="pggan128")
    (_, meta), = samples(tmp_path / "000000.tar")  # fmt: skip
    assert (meta["box"], len(meta["keypoints"]), meta["score"]) == ([40.0, 40.0, 40.0, 40.0], 6, 0.9)
    assert meta["quad"] == [[25, 57], [25, 185], [153, 185], [153, 57]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"detector": "none"}, r"--crop aligned needs a face.*\nChoose a fixed crop \(dcgan108, .* or squash\)"),
        ({"crop": "dcgan108", "margin": 1.5}, r"--margin 1.5 has no effect.*\nLeave it out, or choose --crop aligned"),
        ({"crop": "dcgan108", "faces": "all"}, "--faces all has no effect"),
        ({"crop": "squash", "detector": "none", "faces": "only"}, r"--faces only(.|\n)*choose another --detector"),
        ({"detector": "mediapip"}, "--detector mediapip is not available(.|\n)*MODULE:CLASS. Did you mean 'mediapipe'"),
        ({"channels": 2}, r"prep.channels = 2 is not available. Choose 1 or 3\."),
        ({"min_face": -1}, "--min-face -1 must be greater than or equal to 0"),
    ],
)
def test_idle_settings_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        PrepConfig.of(settings)


def test_model_needs_mediapipe(portraits: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--model a.tflite is for MediaPipe.*--detector none"):
        prepare(portraits, tmp_path / "out", crop="squash", detector="none", model=Path("a.tflite"))


def test_dataset_older_than_settings_continues(dataset_copy: Path, portraits: Path) -> None:
    path = dataset_copy / "dataset.json"
    stored = json.loads(path.read_text())
    for name in ("rotate", "min_face", "min_sharpness", "channels"):
        del stored["settings"][name]
    path.write_text(json.dumps(stored))
    assert plan_prepare(PrepareRequest(portraits, dataset_copy, PrepConfig(shard_size=20))).new == 0
    with pytest.raises(DatasetError, match=r"prepared with --rotate none.*--rotate auto"):
        plan_prepare(PrepareRequest(portraits, dataset_copy, PrepConfig(shard_size=20, rotate="auto")))


def own_config(name: str) -> PrepConfig:
    return PrepConfig.of({"detector": f"tests.prep.detectors:{name}"})


def test_dataset_with_own_detector(portraits: Path, tmp_path: Path) -> None:
    assert prepare(portraits, tmp_path / "out", own_config("Numbers"), workers=0, limit=10).kept == 10
    meta = FaceShards(tmp_path / "out")[0][1]
    assert (meta["box"], meta["score"]) == ([66.75, 86.75, 44.5, 44.5], 0.9)
    assert DatasetInfo.read(tmp_path / "out").settings["models"] == []
    with pytest.raises(
        DatasetError, match=r"prepared with --detector tests.prep.detectors:Numbers.*--detector mediapipe"
    ):
        plan_prepare(PrepareRequest(portraits, tmp_path / "out", PrepConfig()))


def test_faces_without_a_place_are_dropped() -> None:
    assert make_detector(own_config("Nowhere"), ()).detect(np.zeros((200, 200, 3), np.uint8), 0.5) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("FivePoints", "detectors:FivePoints returned Face.* which is not a face: it has 5 keypoints"),
        ("Boxes", "which is not a face: 'tuple' object has no attribute 'box'"),
        ("Needy", "detectors:Needy could not be created: TypeError: .*'weights'"),
    ],
)
def test_invalid_detector_stops_the_run(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        run_chunk(tmp_path, {b"1.jpg": photo()}, make_detector(own_config(name), ()))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tests.prep.detectors:Endless", "detectors:Endless is not a detector. It must be a class with"),
        ("tests.prep.detectors:Midle", "cannot be imported: AttributeError: .*Midle"),
        ("not_there:Detector", "cannot be imported: ModuleNotFoundError: (.|\n)*a file in the current folder"),
    ],
)
def test_missing_detector_is_reported_first(portraits: Path, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        prepare(portraits, tmp_path / "out", PrepConfig(detector=name), workers=1)
    assert not (tmp_path / "out").exists()


TURNED = (0, 90, 180, 270)
PORTRAITS = 4


@pytest.fixture(scope="module")
def detector(models: Path) -> Iterator[Detector]:
    made = make_detector(PrepConfig(), find_models(PrepConfig()))
    yield made
    made.close()


@pytest.fixture(scope="module")
def drawn() -> list[Portrait]:
    return [draw_portrait(3, index) for index in range(PORTRAITS)]


@pytest.fixture(scope="module", params=["aligned", "box"])
def turned_portraits(
    request: pytest.FixtureRequest, drawn: list[Portrait], detector: Detector, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[int, int], tuple[np.ndarray, dict]]:
    """(portrait, degrees) → its crop and JSON: portraits, each stored as if turned by ``degrees`` to be upright."""
    folder = tmp_path_factory.mktemp("turned")
    photos = {
        b"%02d-%03d.png" % (index, degrees): encoded(np.rot90(portrait.pixels, degrees // 90), "PNG")
        for index, portrait in enumerate(drawn)
        for degrees in TURNED
    }
    result = run_chunk(folder, photos, detector, rotate="auto", crop=request.param)
    assert {row.outcome for row in result.rows} == {"kept"}
    found = samples(folder / "000000.tar")
    return {(int(meta["path"][:2]), int(meta["path"][3:6])): (pixels, meta) for pixels, meta in found}


def test_rotated_photographs_give_equal_crops(turned_portraits: dict) -> None:
    for (index, degrees), (pixels, meta) in turned_portraits.items():
        assert meta["turned"] == degrees
        assert psnr(pixels, turned_portraits[index, 0][0]) >= 40


def test_json_is_in_pixels_of_the_photograph(turned_portraits: dict, drawn: list[Portrait]) -> None:
    for (index, degrees), (pixels, meta) in turned_portraits.items():
        portrait = drawn[index]
        source = np.rot90(portrait.pixels, degrees // 90)
        assert (meta["height"], meta["width"]) == source.shape[:2]
        assert psnr(pixels, supersampled(source, np.array(meta["quad"]), 64, factor=4)) >= 30
        height, width = portrait.pixels.shape[:2]
        x, y = portrait.keypoints[0]
        true_eye = np.array(
            {0: (x, y), 90: (y, width - x), 180: (width - x, height - y), 270: (height - y, x)}[degrees]
        )
        assert np.hypot(*(true_eye - meta["keypoints"][0])) < 6
        x, y, w, h = meta["box"]
        assert x < true_eye[0] < x + w
        assert y < true_eye[1] < y + h


def test_nothing_is_rotated_by_default(drawn: list[Portrait], detector: Detector, tmp_path: Path) -> None:
    run_chunk(tmp_path, {b"1.png": encoded(np.rot90(drawn[0].pixels, 2), "PNG")}, detector)
    assert [meta["turned"] for _, meta in samples(tmp_path / "000000.tar")] == [0]  # found, with wrong keypoints


def test_large_photograph_is_rotated(detector: Detector, tmp_path: Path) -> None:
    """Detected on a shrunk decode whose last blocks are not whole, cropped from the full one."""
    pixels = draw_portrait(3, 1, width=1003, height=1229).pixels
    photos = {b"%03d.png" % turn: encoded(np.rot90(pixels, turn // 90), "PNG", compress_level=1) for turn in TURNED}
    run_chunk(tmp_path, photos, detector, rotate="auto", size=128)
    found = samples(tmp_path / "000000.tar")
    assert [meta["turned"] for _, meta in found] == list(TURNED)
    for face, meta in found:
        assert abs(meta["score"] - found[0][1]["score"]) < 0.02
        assert psnr(face, found[0][0]) >= 30


@pytest.mark.slow
def test_real_photographs_are_put_right(celeba: Path, detector: Detector, tmp_path: Path) -> None:
    photos = {}
    with tarfile.open(celeba) as tar:
        for member in itertools.islice(tar, 0, 8050, 80):
            file = tar.extractfile(member)
            if file is not None:
                image = Image.open(io.BytesIO(file.read()))
                for degrees in TURNED:  # counter-clockwise
                    name = f"{Path(member.name).stem}-{degrees}.png"
                    photos[name.encode()] = encoded(image.rotate(degrees, expand=True), "PNG")
    run_chunk(tmp_path, photos, detector, rotate="auto")
    found = [meta for _, meta in samples(tmp_path / "000000.tar")]
    right = sum(meta["turned"] == int(Path(meta["path"]).stem.split("-")[1]) for meta in found)
    assert right >= 0.99 * len(photos)
