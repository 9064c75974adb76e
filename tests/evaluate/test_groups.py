"""Groups of faces that a generator misses: the estimator, the test, and what `facegan eval` makes of them."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
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
from facegan.errors import DatasetError, SettingsError
from facegan.evaluate.attribute_classifier import LabelledFaces, attribute_scores, edges_and_colours, learn_attributes
from facegan.evaluate.groups import (
    Audit,
    Classified,
    Head,
    Obedience,
    audit,
    corrected_share,
    heads_of,
    left_out_classes,
    read_audit,
)
from facegan.evaluate.manifold import covered, density_coverage
from facegan.nets import load_generator
from facegan.prep.prepare import prepare
from facegan.sample.latents import sample_attributes, sample_inputs
from facegan.stream import FaceShards
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
    assert f"against {found[0].coverage:.2f} (real faces 0.9" in group.sentence(found[0].coverage)
    (option, value), *others = group.remedies
    assert (option, others) == ("--balance", [("--condition", "Eyeglasses")])
    assert float(value.removeprefix("Eyeglasses=")) == pytest.approx(3 * group.real, abs=0.001)
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
    assert found.missed[0].remedies == ()


def test_unreliable_heads_are_left_out_by_name(rng: np.random.Generator) -> None:
    labels, held_out = drawn(rng, 1_000, SHARES)
    labels[:, 2] = rng.random(1_000) < 0.5
    labels[30:, 0] = False
    found = audit(HEADS, labels, labels, held_out, held_out)
    assert (found.left_out.keys(), found.accuracy.keys()) == ({"Smiling", "Eyeglasses"}, {"Male"})
    assert found.left_out["Eyeglasses"] is None  # too few, whatever the classifier is worth
    assert found.reasons == {
        "the classifier cannot tell them": ["Smiling"],
        "fewer than 40 held-out faces with or without them": ["Eyeglasses"],
    }
    assert read_audit(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    assert {name for group in found.groups for name, _ in group.terms} == {"Male"}


def test_obedience_is_what_is_seen_of_what_was_asked() -> None:
    labels = np.repeat([[True], [False]], 100, axis=0)
    held_out = Classified(np.repeat([[0.9], [0.1], [0.9], [0.1]], [90, 10, 15, 85], axis=0), np.zeros((200, 1)))
    asked = np.repeat([True, False], [8, 4])
    samples = Classified(np.repeat([[0.9], [0.1], [0.9]], [6, 5, 1], axis=0), np.zeros((12, 1)), {"Male": asked})
    found = audit([Head("Male", "Male", None, "binary")], labels, labels, held_out, samples)
    assert found.obedience == (Obedience("Male", 0.75, 0.75, 0.9, 0.85),)
    assert found.obedience[0].sentence == (
        "Male: seen in 75 % of samples drawn with it, and not seen in 75 % of those without (real faces 90 %, 85 %)"
    )
    assert read_audit(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    assert not audit([Head("Old", "Old", None, "binary")], labels, labels, held_out, samples).obedience


def test_heads_of_columns_by_their_types() -> None:
    values = np.arange(1_000)
    table = pa.table({"a": values < 300, "none": values < 3, "hair": values % 3, "yaw": values / 10})
    heads = heads_of(table)
    names = ["a", "hair = 0", "hair = 1", "hair = 2", "yaw, lowest fifth", "yaw, highest fifth"]
    assert [head.name for head in heads] == names
    assert [int(head.labels(table).sum()) for head in heads] == [300, 334, 333, 333, 200, 200]


def test_most_frequent_classes_are_heads() -> None:
    values = np.concatenate([np.arange(10), np.repeat(np.arange(100, 170), 20), np.repeat(np.arange(200, 210), 60)])
    table = pa.table({"person": values, "hair": values % 3})
    heads = heads_of(table)
    people = [head.value for head in heads if head.column == "person"]
    assert people == [*range(100, 140), *range(200, 210)]
    assert left_out_classes(table, heads) == {"person": 40}
    assert {head.equal for head in heads} == {0.0, 1 / 3}  # a class of one face would come too often


@pytest.mark.parametrize(
    ("share", "head", "remedies"),
    [
        (0.0051, "binary", ["--balance A=0.096", "--condition A"]),  # 19 times at most
        (0.05, "binary", ["--balance A=0.15", "--condition A"]),
        (0.38, "binary", ["--balance A=0.5", "--condition A"]),
        (0.45, "binary", ["--condition A"]),  # 50 % would show others more often
        (0.8, "binary", ["--condition A"]),
        (0.05, "class", ["--balance-by A", "--condition A"]),
        (0.3, "class", ["--condition A"]),  # equal parts would show it less often
        (0.2, "lowest fifth", []),
    ],
)
def test_remedies_raise_shares_that_can_be_raised(share: float, head: str, remedies: list[str]) -> None:
    rng, count = np.random.default_rng(0), 2_000
    labels, shares = (np.arange(count) < share * count)[:, None], (np.arange(10_000) < round(share * 10_000))[:, None]
    labels[:40] = True
    scored = [Classified(each.astype(np.float32), rng.normal(size=(count, 2)).astype(np.float32))
              for each in (labels, np.zeros((count, 1)))]  # fmt: skip
    value = {"binary": None, "class": 2.0}.get(head, 0.5)
    found = audit([Head("A", "A", value, head, 0.25 if head == "class" else 0.0)], shares, labels, *scored)
    assert [" ".join(each) for each in found.missed[0].remedies] == remedies


def test_remedy_of_an_absence_balances_the_attribute() -> None:
    labels = (np.arange(2_000) < 1_900)[:, None]
    features = np.random.default_rng(0).normal(size=(2_000, 2)).astype(np.float32)
    scored = [Classified(each.astype(np.float32), features) for each in (labels, np.ones((2_000, 1)))]
    found = audit(HEADS[:1], labels, labels, *scored)
    assert [(group.name, group.remedies[0]) for group in found.missed] == [
        ("no Eyeglasses", ("--balance", "Eyeglasses=0.85"))
    ]


def test_coverage_takes_samples_by_the_seed(rng: np.random.Generator) -> None:
    """The first images of a folder may all be alike."""
    labels, held_out = drawn(rng, 1_000, SHARES)
    half = Classified(np.repeat(held_out.scores[:1], 1_000, 0), np.repeat(held_out.features[:1], 1_000, 0))
    both = zip(half[:2], drawn(rng, 1_000, SHARES)[1][:2], strict=True)
    samples = Classified(*map(np.concatenate, both))
    found = [audit(HEADS, labels, labels, held_out, samples, seed).coverage for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert min(each or 0 for each in found) > 0.6


@pytest.mark.parametrize("count", [0, 1, 6, 9, 11, 12])
def test_few_held_out_faces_have_no_coverage(rng: np.random.Generator, count: int) -> None:
    labels, held_out = drawn(rng, count, SHARES)
    found = audit(HEADS, drawn(rng, 100, SHARES)[0], labels, held_out, drawn(rng, 50, SHARES)[1])
    assert (found.coverage is None) == (count < 12)
    assert found.groups == ()
    assert set(found.left_out.values()) == {None}


@pytest.mark.parametrize("change", [{"coverage": "x"}, {"left_out": 5}, {"groups": [1]}, {"coverage": float("nan")}])
def test_damaged_audits_are_not_read(rng: np.random.Generator, change: dict[str, object]) -> None:
    whole = audited(rng, SHARES).to_json()
    assert read_audit(whole | {"missed": 5, "later": 1}) == read_audit(whole) != None  # noqa: E711
    assert read_audit(whole | change) is None


def test_coverage_is_the_mean_of_covered(rng: np.random.Generator) -> None:
    real, fake = rng.normal(size=(200, 4)).astype(np.float32), rng.normal(1, 1, (150, 4)).astype(np.float32)
    is_covered = covered(real, fake)
    assert density_coverage(real, fake)[1] == is_covered.mean()
    distances = np.linalg.norm(real[:, None] - real[None], axis=2)
    radius = np.sort(distances, axis=1)[:, 5]
    assert np.array_equal(is_covered, (np.linalg.norm(real[:, None] - fake[None], axis=2) < radius[:, None]).any(1))


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


def test_few_labelled_faces_lose_no_metrics(portraits: Path, tmp_path: Path, no_network: None) -> None:
    """Metrics are written, with a note; groups that are asked for are refused before anything is measured."""
    rows = [f"{path.name},{number % 2}" for number, path in enumerate(sorted(portraits.iterdir()))]
    (tmp_path / "attributes.csv").write_text("\n".join(["photo,odd", *rows]))
    config, out = PrepConfig(size=28, crop="squash", detector="none", split="0.8,0,0.2"), tmp_path / "out"
    prepare(portraits, out, config, workers=0, attributes=tmp_path / "attributes.csv")
    images = write_faces(tmp_path / "images", out, "test")
    asked = (images, "--shards", out, "--out", tmp_path / "result")
    ended = facegan("eval", *asked, "--device", "cpu")
    assert ended.code == 0, ended.stderr
    assert "--groups cannot compare by odd: each is rare, or nearly all faces have it" in ended.stderr
    found = json.loads((tmp_path / "result" / "eval.json").read_text())
    assert "swd_28" in found["metrics"] or "swd" in found["metrics"]
    assert "groups" not in found
    ended = facegan("eval", *asked, "--metrics", "swd", "--groups", "--device", "cpu")
    assert ended.code == 2
    assert "Images of" not in ended.stderr


def test_other_splits_stay_closed_without_attributes(faces: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(faces, tmp_path / "copy"))
    for name in ("train", "val"):
        for path in copy.rglob(f"*{name}*.tar"):
            path.unlink()
    with closing(FaceShards(copy, "test", cache="off")) as opened, pytest.raises(SettingsError, match="annotate"):
        LabelledFaces(str(copy), opened, 0)
    with pytest.raises(DatasetError):
        FaceShards(copy, "val", cache="off")


def test_condition_without_training_decides_nothing(labelled: Path, tmp_path: Path) -> None:
    run, small = tmp_path / "run", ("--set", "train.nets=dcgan-fc", "--set", "train.width=4")
    asked = ("--shards", labelled, "--run", run, "--condition", "square", "--batch", 8, "--images", 16, *small)
    ended = facegan("train", *asked, "--device", "cpu")
    assert ended.code == 0, ended.stderr
    found = evaluated(run, "--shards", labelled, "--n", 200, "--metrics", "swd", "--groups")
    (obedience,) = found["groups"]["obedience"]
    assert obedience["name"] == "square"
    assert min(obedience["real_with"], obedience["real_without"]) > 0.95
    assert abs(obedience["samples_with"] + obedience["samples_without"] - 1) < 0.2
    spec = load_generator(run).spec
    drawn_with = sample_inputs(spec, 200, 0)[:, -1] > 0
    assert [value > 0 for value in sample_attributes(spec, 200, 0)["square"]] == drawn_with.tolist()


def test_groups_need_attributes(faces: Path, labelled: Path, tmp_path: Path) -> None:
    images = write_faces(tmp_path / "images", faces, "train")
    code, said = refused(images, "--shards", faces, "--metrics", "swd", "--groups")
    assert (code, "--groups needs attributes. Add some with: facegan annotate" in said) == (2, True)


@pytest.mark.parametrize("features", [12, 100])  # fewer and more than faces
def test_ridge_regression_has_least_leave_one_out_error(rng: np.random.Generator, features: int) -> None:
    """Against one regression for each face that is left out; and the logits of these are calibrated."""
    x = rng.normal(size=(60, features)).astype(np.float32) * np.float32((12 / features) ** 0.5)
    labels = x[:, :1] + x[:, 1:2] + rng.normal(size=(60, 1)) > 0.8
    state = learn_attributes(x, labels)

    def left_out(penalty: float) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for row in range(61):  # the last with all
            kept = np.arange(60) != row
            a, y = x[kept] - x[kept].mean(0), labels[kept, 0] - labels[kept, 0].mean()
            found.append(np.linalg.solve(a.T @ a + penalty * np.eye(features), a.T @ y))
        others = ~np.eye(60, dtype=bool)
        values = [(x[i] - x[o].mean(0)) @ found[i] + labels[o, 0].mean() for i, o in enumerate(others)]
        return np.array(values), found[-1]

    tried = [left_out(penalty) for penalty in (0.3, 1, 3, 10)]
    values, weights = min(tried, key=lambda pair: ((labels[:, 0] - pair[0]) ** 2).sum())
    slope = state["weights"][0, 0] / weights[0]
    assert state["weights"][:, 0] == pytest.approx(weights * slope, rel=1e-3)
    logits = slope * (values - labels.mean()) + state["bias"][0] + x.mean(0) @ state["weights"][:, 0]
    count = labels.sum()
    targets = np.where(labels[:, 0], (count + 1) / (count + 2), 1 / (60 - count + 2))
    errors = 1 / (1 + np.exp(-logits)) - targets
    assert abs(errors.mean()) < 2e-3
    assert abs((errors * values).mean()) < 2e-3


def test_attribute_of_no_face_is_never_seen(rng: np.random.Generator) -> None:
    x = rng.normal(size=(60, 12)).astype(np.float32)
    labels = x[:, :2] > (0, 9)
    state = learn_attributes(x, labels)
    assert state["weights"][:, 1].tolist() == [0] * 12
    assert state["weights"][:, :1] == pytest.approx(learn_attributes(x, labels[:, :1])["weights"], rel=1e-3)
    unlike = {"weights": np.full((7 * 7 * 4 * 9 + 256, 1), -1_000, np.float32), "bias": np.zeros(1, np.float32)}
    scores, _ = attribute_scores(unlike, torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8))
    assert scores.max() < 1e-30


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (64, 3), (128, 1)])
def test_features_depend_on_the_image_alone(size: int, channels: int) -> None:
    images = torch.randint(0, 256, (4, channels, size, size), dtype=torch.uint8)
    features = edges_and_colours(images)
    assert features.shape == (4, 7 * 7 * 4 * 9 + 256 * channels)
    assert np.array_equal(edges_and_colours(images[2:]), features[2:])
    assert not np.allclose(edges_and_colours(images.flip(3)), features)


def _attributes(index: int) -> list[bool]:
    person = Person(np.random.Generator(np.random.Philox(key=np.array([7, index], np.uint64))))
    return [bool(person.glasses), bool(person.beard), person.mouth_open > 0, person.hair.mean() < 60]


@pytest.mark.slow
def test_glasses_rank_first_on_portraits() -> None:
    """3 % wear glasses, and the generator draws portraits without; in a control held-out portraits are the samples."""
    heads = [Head(name, name, None, "binary") for name in ("Eyeglasses", "Beard", "Open mouth", "Dark hair")]
    everyone = np.array([_attributes(index) for index in range(4_500)])
    drawn = np.sort(np.concatenate([np.flatnonzero(everyone[:, 0] == worn)[:n] for worn, n in ((1, 117), (0, 3_810))]))
    faces = [draw_portrait(7, int(index)).pixels[62:172, 34:144] for index in drawn]
    small = np.stack([cv2.resize(face, (32, 32), interpolation=cv2.INTER_AREA) for face in faces])
    images, labels = torch.from_numpy(small).permute(0, 3, 1, 2), everyone[drawn]
    glasses, others = np.flatnonzero(labels[:, 0]), np.flatnonzero(~labels[:, 0])
    first, quiet = 0, 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        few, many = rng.permutation(glasses), rng.permutation(others)
        trained = np.concatenate([few[:45], many[:1_455]])
        held_out = rng.permutation(np.concatenate([few[45:90], many[1_455:2_910]]))
        control, without = np.concatenate([few[90:117], many[2_910:3_783]]), many[2_910:3_810]
        state = learn_attributes(edges_and_colours(images[trained]), labels[trained])
        real, *samples = (Classified(*attribute_scores(state, images[rows])) for rows in (held_out, without, control))
        missed = [audit(heads, labels[trained], labels[held_out], real, each).missed for each in samples]
        first += [group.name for group in missed[0]][:1] == ["Eyeglasses"]
        quiet += not missed[1]
    assert first >= 9
    assert quiet >= 9
