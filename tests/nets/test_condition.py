"""Conditions: their values, how they are drawn, the nets that take them, and generators in files."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from facegan.config import CONDITIONAL_NETS
from facegan.errors import CheckpointError, SettingsError
from facegan.nets import (
    PAIRS,
    Condition,
    NetSpec,
    draw_inputs,
    load_generator,
    make_discriminator,
    make_generator,
    save_generator,
)

BINARY = Condition(("Eyeglasses", "Male"), 0, ((-1, -1), (-1, 1), (1, 1)), (50, 30, 20))
CLASSES = Condition(("digit",), 4, ((0,), (2,), (3,)), (10, 20, 70))
FIELDS = {"name": "dcgan", "size": 32, "channels": 3, "latent": 8, "width": 4, "norm": "batch"}


def spec_of(name, condition, norm=None):
    return NetSpec(name, 32, 3, latent=8, width=4, norm=norm or PAIRS[name].norms[0], condition=condition)


def test_combinations_of_faces_are_counted():
    glasses, male = np.array([True, False, False, True, False]), np.array([True, True, False, True, False])
    condition, rows = Condition.of_faces({"Eyeglasses": glasses, "Male": male})
    assert condition == Condition(("Eyeglasses", "Male"), 0, ((-1, -1), (-1, 1), (1, 1)), (2, 1, 2))
    assert rows.tolist() == [2, 1, 0, 2, 0]
    assert condition.codes().tolist() == [[-1, -1], [-1, 1], [1, 1]]
    classes, rows = Condition.of_faces({"digit": np.array([3, 0, 3])})
    assert (classes, rows.tolist()) == (Condition(("digit",), 4, ((0,), (3,)), (1, 2)), [1, 0, 1])
    assert classes.codes().tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"Yaw": [0.5, 1.5]}, "--condition Yaw: Yaw is a number with decimals.\nName up to 8 attributes that are true"),
        ({"Bald": [False, False]}, "--condition Bald: all 2 faces have the same Bald .False., so there is nothing"),
        ({"a": [True, False], "digit": [1, 2]}, "--condition a,digit: these do not go together"),
        ({"digit": [1, 2], "other": [1, 2]}, "--condition digit,other: these do not go together"),
        ({f"a{i}": [True, False] for i in range(9)}, "these do not go together.\nName up to 8"),
        ({"person": [0, 10_177]}, "--condition person: its values are 0 … 10177.\n.* from 0 to at most 999"),
        ({"person": [-1, 4]}, "its values are -1 … 4"),
    ],
)
def test_faces_without_condition_are_refused(columns, message):
    with pytest.raises(SettingsError, match=message):
        Condition.of_faces({name: np.array(values) for name, values in columns.items()})


def test_conditions_are_drawn_as_frequent():
    images = torch.arange(20_000)
    drawn = BINARY.draw(3, "sample", images)
    for row, share in zip(BINARY.table, (0.5, 0.3, 0.2), strict=True):
        found = (drawn == torch.tensor(row)).all(1).double().mean().item()
        assert abs(found - share) < 5 * (share * (1 - share) / len(images)) ** 0.5
    assert torch.equal(drawn[100:103], BINARY.draw(3, "sample", images[100:103]))  # each from its number alone
    assert not torch.equal(drawn, BINARY.draw(4, "sample", images))
    assert not torch.equal(drawn, BINARY.draw(3, "other", images))
    assert BINARY.values_of(drawn[:0]) == {"Eyeglasses": [], "Male": []}
    drawn = CLASSES.draw(0, "sample", images)
    assert torch.equal(drawn.sum(1), torch.ones(20_000))
    assert np.bincount(CLASSES.values_of(drawn)["digit"]) / 20_000 == pytest.approx([0.1, 0, 0.2, 0.7], abs=0.015)


def test_given_attributes_restrict_or_override():
    assert BINARY.given({}) == BINARY
    assert BINARY.given({"Male": 1}) == replace(BINARY, table=((-1, 1), (1, 1)), counts=(30, 20))
    none_has_both = BINARY.given({"Eyeglasses": 1, "Male": -1})
    assert none_has_both == replace(BINARY, table=((1, -1),), counts=(100,))
    assert CLASSES.given({"digit": 2}) == replace(CLASSES, table=((2,),), counts=(20,))
    with pytest.raises(SettingsError, match=r"knows no attribute 'Eyeglass': .* Eyeglasses or Male. Did you mean 'Eye"):
        BINARY.given({"Eyeglass": 1})
    for value in (1, 4):
        with pytest.raises(SettingsError, match=rf"--class {value}: no face .* digit had the classes 0, 2, 3\."):
            CLASSES.given({"digit": value})


@pytest.mark.parametrize("condition", [BINARY, CLASSES], ids=["binary", "classes"])
@pytest.mark.parametrize(
    ("name", "norm"),
    [*((name, None) for name in CONDITIONAL_NETS), ("dcgan", "none"), ("dcgan", "spectral"), ("resnet", "layer")],
)
def test_discriminator_projects_on_the_condition(name, norm, condition):
    spec = spec_of(name, condition, norm)
    plain: Any = make_discriminator(replace(spec, condition=None)).eval()
    d: Any = make_discriminator(spec).eval()
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    c = condition.codes()[[0, 1, 2, 1, 0]]
    d.inner.load_state_dict(plain.state_dict())  # nothing else is different
    if spec.norm != "spectral":
        assert torch.equal(d(images, c), plain(images))
        torch.nn.init.normal_(d.embed.weight)
    matrix = d.embed.normalised() if spec.norm == "spectral" else d.embed.weight
    last = {"dcgan": -1, "dcgan-fc": -2}.get(name)
    with torch.no_grad():
        if last:
            maps = plain.layers[:last](images).double()
            pooled = maps.sum(dim=(2, 3))
        else:
            pooled = d.inner.features(images).double()
        assert pooled.shape[1] == matrix.shape[0]
        expected = plain(images).double() + torch.einsum("nk,pk,np->n", c.double(), matrix.double(), pooled)
        assert torch.allclose(d(images, c).double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("condition", [BINARY, CLASSES], ids=["binary", "classes"])
@pytest.mark.parametrize("name", CONDITIONAL_NETS)
def test_generator_gets_the_condition_beside_its_latent(name, condition):
    spec = spec_of(name, condition)
    g: Any = make_generator(spec, 1).eval()
    inputs = draw_inputs(spec, 4, 0, "z")
    assert inputs.shape == (4, spec.inputs)
    z, c = inputs.split([8, condition.length], 1)
    images = g(inputs)
    assert torch.equal(images, g(z, c))
    other = c.roll(1, 1) if condition.classes else -c
    assert (images - g(z, 10 * other)).abs().mean() > 1e-5
    assert torch.equal(make_generator(replace(spec, latent=spec.inputs, condition=None), 1).eval()(inputs), images)


def test_other_nets_refuse_conditions():
    for name in set(PAIRS) - set(CONDITIONAL_NETS):
        with pytest.raises(SettingsError, match=rf"The nets '{name}' support no condition. dcgan, dcgan-fc, resnet or"):
            make_generator(spec_of(name, BINARY))
    with pytest.raises(SettingsError, match="The nets 'mine:NETS' support no condition"):
        make_generator(replace(spec_of("mlp", BINARY), name="mine:NETS"))  # nothing is imported


@pytest.mark.parametrize("condition", [BINARY, CLASSES, None], ids=["binary", "classes", "none"])
def test_generators_in_files_keep_conditions(tmp_path, condition):
    spec = spec_of("dcgan", condition)
    path = tmp_path / "generator.safetensors"
    save_generator(path, made := make_generator(spec, 2))
    loaded = load_generator(path)
    assert loaded.spec == spec
    inputs = draw_inputs(spec, 3, 0, "z")
    assert torch.equal(made.eval()(inputs), loaded(inputs))
    assert (b"condition" in path.read_bytes()) == (condition is not None)


GOOD = BINARY.to_json()


@pytest.mark.parametrize(
    "condition",
    [
        *(None, 3, "Male", [], {}, {"names": ["Male"]}, GOOD | {"more": 1}, [GOOD]),
        *(
            GOOD | {"names": names}
            for names in ([], ["Male"], "ab", ["Male", "Male"], ["", "a"], [1, 2], ["a" * 201, "b"], 7)
        ),
        *(GOOD | {"classes": classes} for classes in (None, True, 2, -1, 1e9, 10**30, "0")),
        *(GOOD | {"table": table} for table in ([], 5, [[-1, -1]] * 3, [[-1], [1], [0]], [[-1, -1], [-1, 1], [1, 0]])),
        *(
            GOOD | {"counts": counts}
            for counts in ([], [1, 2], [1, 2, 0], [1, 2, 2**31], [1, 2, True], [1, 2, 0.5], None)
        ),
        CLASSES.to_json() | {"classes": 10**9},
        CLASSES.to_json() | {"table": [[0], [1], [4]]},
        CLASSES.to_json() | {"names": ["a", "b"]},
    ],
)
def test_invalid_conditions_of_files_are_refused(tmp_path, condition):
    path = tmp_path / "generator.safetensors"
    about = {"format": 1, "spec": {**FIELDS, "condition": condition}}
    save_file({"a": torch.zeros(1)}, path, {"facegan": json.dumps(about)})
    with pytest.raises(CheckpointError, match="has a spec that this facegan cannot read"):
        load_generator(path)


@pytest.mark.parametrize("changes", [{"latent": 10**15}, {"width": 10**15}, {"name": "mlp", "norm": "none"}, {}])
def test_conditional_tensors_are_compared_first(tmp_path, changes):
    path = tmp_path / "generator.safetensors"
    about = {"format": 1, "spec": {**FIELDS, "condition": GOOD, **changes}}
    save_file({"embed.weight": torch.zeros(8, 3)}, path, {"facegan": json.dumps(about)})
    with pytest.raises(CheckpointError, match=r"another architecture|cannot build|support no condition"):
        load_generator(path)
