"""Groups of faces that a generator misses: the estimator, the test, and what `facegan eval` makes of them."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from facegan.config import PrepConfig
from facegan.demo.people import Person
from facegan.demo.portraits import draw_portrait
from facegan.evaluate.attribute_net import attribute_scores, train_attributes
from facegan.evaluate.groups import Audit, Classified, Head, audit, balanced_accuracy, corrected_share, heads_of
from facegan.evaluate.manifold import covered, density_coverage
from facegan.prep.prepare import prepare
from tests.evaluate.program import evaluated, refused, write_faces
from tests.recipes.program import facegan


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


HEADS = [Head(name, name, None, "binary") for name in ("Eyeglasses", "Male", "Smiling")]
SHARES = (0.06, 0.4, 0.5)


def test_corrected_share_equals_rogan_and_gladen() -> None:
    """With decisions in place of probabilities: (q + specificity − 1) / (sensitivity + specificity − 1)."""
    held_out, inside = np.repeat([1.0, 0, 1, 0], [45, 5, 20, 180]), np.repeat([True, False], [50, 200])
    share, deviation = corrected_share(held_out, inside, np.repeat([1.0, 0], [37, 63])) or (0, 0)
    assert share == pytest.approx((0.37 + 0.9 - 1) / (0.9 + 0.9 - 1))
    variance = 0.37 * 0.63 / 99 + share**2 * 0.9 * 0.1 / 49 + (1 - share) ** 2 * 0.1 * 0.9 / 199
    assert deviation == pytest.approx(variance**0.5 / 0.8)
    assert corrected_share(1 - held_out, inside, held_out) is None  # the classifier tells the opposite


def test_intervals_contain_the_share(rng: np.random.Generator) -> None:
    hits = 0
    for _ in range(400):
        inside = rng.random(800) < 0.2
        scores = np.clip(rng.normal(np.where(inside, 0.7, 0.25), 0.2), 0, 1)
        samples = rng.random(600) < 0.1
        share, deviation = corrected_share(
            scores, inside, np.clip(rng.normal(np.where(samples, 0.7, 0.25), 0.2), 0, 1)
        ) or (0, 0)
        hits += abs(share - 0.1) < 1.96 * deviation
    assert 0.92 < hits / 400 < 0.98


def drawn(rng: np.random.Generator, count: int, shares: tuple[float, ...]) -> tuple[np.ndarray, Classified]:
    """Labels, and what a good classifier makes of such images."""
    labels = rng.random((count, len(shares))) < shares
    return labels, classified(rng, labels, SHARES)


def classified(rng: np.random.Generator, labels: np.ndarray, priors: tuple[float, ...]) -> Classified:
    """Posterior probabilities from a feature per attribute, N(±1.5, 1), and the features."""
    features = rng.normal(np.where(labels, 1.5, -1.5), 1.0)
    odds = np.exp(3 * features) * priors / (1 - np.array(priors))
    return Classified((odds / (1 + odds)).astype(np.float32), features.astype(np.float32))


def audited(rng: np.random.Generator, shares: tuple[float, ...]) -> Audit:
    """Of samples with these shares."""
    labels, held_out = drawn(rng, 1_500, SHARES)
    return audit(HEADS, drawn(rng, 8_000, SHARES)[0], labels, held_out, drawn(rng, 1_500, shares)[1])


def test_missed_group_is_named_first_and_alone() -> None:
    found = [audited(np.random.default_rng(seed), (0.005, 0.4, 0.5)) for seed in range(20)]
    assert sum([group.name for group in each.missed] == ["Eyeglasses"] for each in found) >= 18
    group = found[0].groups[0]
    assert group.low <= group.samples <= group.high < 0.75 * group.real
    assert "Eyeglasses: 6." in group.sentence(0.9)
    assert group.remedy("out") == f"facegan train --shards out --balance Eyeglasses={3 * group.real:.2g}"
    assert found[0].coverage == pytest.approx(0.97, abs=0.03)


def test_nothing_is_named_without_a_difference() -> None:
    assert sum(bool(audited(np.random.default_rng(seed), SHARES).missed) for seed in range(20)) <= 2


def test_pair_is_named_where_both_halves_are_there() -> None:
    """As many with glasses and as many men as there should be, but no men with glasses."""
    rng = np.random.default_rng(0)
    shares = (0.3, 0.4, 0.5)
    labels = rng.random((1_500, 3)) < shares
    has = rng.random((1_500, 3)) < (0.3 / 0.6, 0.4, 0.5)
    has[:, 0] &= ~has[:, 1]
    scored = [classified(rng, each, shares) for each in (labels, has)]
    found = audit(HEADS, rng.random((8_000, 3)) < shares, labels, *scored)
    assert [group.name for group in found.missed] == ["Eyeglasses and Male"]


def test_unreliable_heads_are_left_out_by_name(rng: np.random.Generator) -> None:
    labels, held_out = drawn(rng, 1_000, SHARES)
    labels[:, 2] = rng.random(1_000) < 0.5
    labels[30:, 0] = False
    found = audit(HEADS, labels, labels, held_out, held_out)
    assert (found.left_out.keys(), found.accuracy.keys()) == ({"Smiling", "Eyeglasses"}, {"Male"})
    assert {name for group in found.groups for name, _ in group.terms} == {"Male"}
    scores, truth = np.array([0.9, 0.2, 0.6, 0.1]), np.array([True, True, False, False])
    assert balanced_accuracy(scores, truth, 0.5) == 0.5


def test_heads_of_columns_by_their_types() -> None:
    values = np.arange(1_000)
    table = pa.table({"a": values < 300, "none": values < 3, "hair": values % 3, "yaw": values / 10})
    heads = heads_of(table)
    names = ["a", "hair = 0", "hair = 1", "hair = 2", "yaw, lowest fifth", "yaw, highest fifth"]
    assert [head.name for head in heads] == names
    assert [int(head.labels(table).sum()) for head in heads] == [300, 334, 333, 333, 200, 200]


def test_coverage_is_the_mean_of_covered(rng: np.random.Generator) -> None:
    real, fake = rng.normal(size=(200, 4)).astype(np.float32), rng.normal(1, 1, (150, 4)).astype(np.float32)
    is_covered = covered(real, fake)
    assert density_coverage(real, fake)[1] == is_covered.mean()
    distances = np.linalg.norm(real[:, None] - real[None], axis=2)
    radius = np.sort(distances, axis=1)[:, 5]
    assert np.array_equal(is_covered, (np.linalg.norm(real[:, None] - fake[None], axis=2) < radius[:, None]).any(1))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, portraits: Path) -> Path:
    """Portraits and squares, which is all that the attribute says: 120 each of 28 pixels."""
    folder = tmp_path_factory.mktemp("labelled")
    (photos := folder / "photos").mkdir()
    rows = ["photo,square"]
    for number in range(240):
        name, square = f"{number:03d}.png", number % 2
        picture = np.array(Image.open(portraits / f"{number % 60 + 1:06d}.jpg").resize((89, 109)))
        if square:
            picture[30:80, 20:70] = 255
        cv2.imwrite(str(photos / name), picture)
        rows.append(f"{name},{square}")
    (folder / "attributes.csv").write_text("\n".join(rows))
    config = PrepConfig(size=28, crop="squash", detector="none", split="0.5,0,0.5")
    prepare(photos, folder / "out", config, workers=0, attributes=folder / "attributes.csv")
    return folder / "out"


def test_eval_names_the_missing_half(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = write_faces(tmp_path / "all", labelled, "train")
    for path in sorted(faces.iterdir()):
        if np.asarray(Image.open(path))[12, 12].min() == 255:
            path.unlink()
    asked = (faces, "--shards", labelled, "--out", tmp_path / "result", "--metrics", "swd", "--groups")
    found = evaluated(*asked)
    assert found["groups"]["accuracy"]["square"] > 0.95
    missed = [group for group in found["groups"]["groups"] if group["is_missed"]]
    assert [group["name"] for group in missed] == ["square"]
    assert missed[0]["samples"] < 0.05 < 0.4 < missed[0]["real"]
    assert found == json.loads((tmp_path / "result" / "eval.json").read_text())
    assert (tmp_path / "result" / "groups.png").is_file()
    again = facegan("eval", *asked)
    assert "missed: square: " in again.stderr
    assert "learns" not in again.stderr  # once for a dataset
    assert "groups" not in evaluated(*asked[:-1])  # by name, without them


def test_groups_need_attributes(faces: Path, labelled: Path, tmp_path: Path) -> None:
    images = write_faces(tmp_path / "images", faces, "train")
    code, said = refused(images, "--shards", faces, "--metrics", "swd", "--groups")
    assert (code, "--groups needs attributes. Add some with: facegan annotate" in said) == (2, True)


def _attributes(seed: int, index: int) -> list[bool]:
    person = Person(np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64))))
    return [bool(person.glasses), bool(person.beard), person.mouth_open > 0, person.hair.mean() < 60]


def _small(index: int) -> np.ndarray:
    pixels = draw_portrait(7, index).pixels[30:190, 10:168]
    return cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA)


@pytest.mark.slow
def test_glasses_rank_first_on_portraits() -> None:
    """3 % wear glasses, and the generator draws portraits without; in a control held-out portraits are the samples."""
    names = ("Eyeglasses", "Beard", "Open mouth", "Dark hair")
    heads = [Head(name, name, None, "binary") for name in names]
    with ProcessPoolExecutor(2) as pool:
        images = np.stack(list(pool.map(_small, range(6_000), chunksize=100)))
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    labels = np.array([_attributes(7, index) for index in range(6_000)])
    glasses, others = np.flatnonzero(labels[:, 0]), np.flatnonzero(~labels[:, 0])
    first, quiet = 0, 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        few, many = rng.permutation(glasses), rng.permutation(others)
        trained = np.concatenate([few[:75], many[:2_425]])
        held_out = rng.permutation(np.concatenate([few[75:120], many[2_425:3_880]]))
        control, without = np.concatenate([few[120:150], many[3_880:4_850]]), many[3_880:4_880]
        state = train_attributes(lambda rows, of=trained: images[of[rows]], labels[trained], 32, 3, seed)
        scored = {
            name: Classified(*attribute_scores(state, images[rows]))
            for name, rows in (("held_out", held_out), ("control", control), ("without", without))
        }
        both = [
            audit(heads, labels[trained], labels[held_out], scored["held_out"], scored[name])
            for name in ("without", "control")
        ]
        first += [group.name for group in both[0].missed][:1] == ["Eyeglasses"]
        quiet += not both[1].missed
    assert first >= 9
    assert quiet >= 9
