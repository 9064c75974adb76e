"""Reading recipes: valid ones, and errors with the line, the rule and the closest name."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegan.config import PrepConfig, TrainConfig
from facegan.config.resources import SECTIONS, PhotosConfig
from facegan.errors import SettingsError
from facegan.recipes.recipe import lines_of, packaged_recipes, read_recipe, settings_table
from tests.recipes.program import facegan

PREP = '[prep]\nsource = "portraits:9"\n'


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mine.toml is empty. A recipe has a section [prep], [train], or both"),
        (PREP + "\n\nsizze = 64\n", "mine.toml, line 5: There is no setting 'sizze' in [prep]. Did you mean 'size'?"),
        (PREP + "batch = 64\n", "mine.toml, line 3: There is no setting 'batch' in [prep]. It belongs in [train]."),
        (PREP + "size = 48\n", "mine.toml, line 3: --size 48 is not available. Choose 28, 32, 64 or 128"),
        (PREP + "workers = -1\n", "mine.toml, line 3: --workers -1 must be auto, or a whole number."),
        (PREP + 'out = "s3://b/out"\n', "mine.toml, line 3: prep.out = s3://b/out: a recipe writes its dataset"),
        (PREP + 'detector = "none"\n', "mine.toml, line 3: --crop aligned needs a face, and --detector none"),
        ("[prep]\nsize = 64\n", "mine.toml, line 1: [prep] needs a source"),
        ('[prep]\nsource = ""\n', "mine.toml, line 2: [prep] needs a source"),
        ("[train]\nbatch = 4\n", "mine.toml, line 1: [train] needs one source of faces"),
        (PREP + '[train]\nshards = "out"\n', "mine.toml, line 4: [train] needs one source of faces"),
        (PREP + '[train]\n\nimages = "5x"\n', "mine.toml, line 5: --images 5x is not a length. Write images"),
        (PREP + '[train]\nloss = "wgan-gp"\n', "mine.toml, line 3: train.norm = batch cannot be used with the loss"),
        (PREP + "[train]\ngp_weight = 1\n", "mine.toml, line 4: train.gp_weight has no effect with the loss"),
        (PREP + "[train]\nlr_g = nan\n", "mine.toml, line 4: --lr-g nan"),
        (PREP + "[train.adam]\nbeta1 = 0\n", "mine.toml, line 3: There is no setting 'adam' in [train]."),
        (PREP + "[[train]]\nbeta1 = 0\n", "mine.toml, line 3: 'train' is in no section"),
        (PREP + "[eval]\nn = 10\n", "mine.toml, line 3: [eval] needs the generator of a section [train]."),
        (PREP + "[train]\n[export]\nsamples = 0\n", "mine.toml, line 5: --samples 0 must be greater than 0."),
        (PREP + "[trian]\n", "mine.toml, line 3: There is no section [trian]. Choose prep, train"),
        ("# x\nsize = 64\n" + PREP, "mine.toml, line 2: 'size' is in no section"),
        (PREP + "size = \n", "mine.toml, line 3: invalid TOML"),
        (PREP + 'a = """\n', "invalid TOML"),
    ],
)
def test_errors_name_their_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_recipe(written(tmp_path, text))
    assert said in str(caught.value)
    assert 1 <= len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"#" * 1_000_001])
def test_binary_and_huge_files_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(data)
    with pytest.raises(SettingsError, match=r"mine\.toml is not a recipe"):
        read_recipe(str(tmp_path / "mine.toml"))


def test_missing_recipes_suggest_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, PREP)
    for name, near in [("smokey", "'smoke'"), ("mine", "'mine.toml'"), ("mein.toml", "'mine.toml'")]:
        with pytest.raises(SettingsError, match=f"There is no recipe (.|\n)*Did you mean {near}") as caught:
            read_recipe(name)
        assert len(str(caught.value).splitlines()) <= 2
    with pytest.raises(SettingsError, match=r"There is no recipe '\.'"):
        read_recipe(".")


def test_set_overrides_the_file(tmp_path: Path) -> None:
    name = written(tmp_path, "\ufeff" + PREP + "size = 48\r\n[train]\nimages = 5\n")
    recipe = read_recipe(
        name, {"prep": {"size": "32", "limit": "5"}, "train": {"images": "20k", "random_flip": "true"}}
    )
    assert (recipe.settings(PrepConfig).size, recipe.settings(PhotosConfig).limit) == (32, 5)
    assert (recipe.train().images, recipe.train().random_flip) == (20_000, True)


@pytest.mark.parametrize(
    ("section", "setting", "value", "said"),
    [
        ("prep", "sise", "64", "--set prep.sise=64: There is no setting 'sise' in [prep]. Did you mean 'size'?"),
        ("prep", "size", "48", "--size 48 is not available"),
        ("train", "batch", "4", "--set train.batch: mine.toml has no [train]."),
        ("prp", "n", "4", "--set prp.n: There is no section [prp]. Choose prep, train, eval, export or report. Did"),
    ],
)
def test_invalid_set_is_refused(section: str, setting: str, value: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_recipe(written(tmp_path, PREP), {section: {setting: value}})
    assert str(caught.value).startswith(said)


def test_defaults_of_method_and_nets(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, PREP + '[train]\nmethod = "wgan-gp"\nlr_d = 2e-4\n'))
    assert recipe.train() == TrainConfig.for_method("wgan-gp", lr_d=2e-4)
    rows = {row.name: (row.value, row.default, row.set) for row in settings_table(recipe)}
    assert (rows["lr_d"], rows["batch"]) == ((2e-4, 3e-4, True), (32, 32, False))


@pytest.mark.parametrize("name", packaged_recipes())
def test_show_lists_every_setting(name: str) -> None:
    recipe, found = read_recipe(name), json.loads(facegan("recipes", "show", name, "--json").stdout)
    shown = {(row["section"], row["name"]): row for row in found["settings"]}
    sections = {section: configs for section, configs in SECTIONS.items() if section in recipe.values}
    owners = {(s, n): config for s, configs in sections.items() for config in configs for n in config.model_fields}
    assert list(shown) == list(owners)
    for (section, setting), row in shown.items():
        assert row["meaning"]
        assert row["unit"] == owners[section, setting].unit(setting)
        assert row["set"] == (setting in recipe.values[section])
        if not row["set"]:
            assert row["value"] == row["default"]
    assert found["heading"] == recipe.heading
    for word in ("Paper:", "Follows:", "Expected:", "Time:"):
        assert word in recipe.heading
    text = facegan("recipes", "show", name).stdout
    assert text.startswith(recipe.heading)
    assert all(f" {setting} " in text for _, setting in shown)


NAME = st.text("abcdefghij_", min_size=1, max_size=6)
VALUE = st.sampled_from(
    ["1", '"a # b"', "[1,\n  2, # [x]\n]", '"""\n[prep]\nx = 1\n"""', "'''\n# y\n'''", "[\n[1],\n\n[2]]", "true # z"]
)
NOISE = st.lists(st.sampled_from(["", "# c = 1", "   ", "\t# [d]"]), max_size=2)


@settings(max_examples=40)
@given(
    st.dictionaries(
        NAME, st.tuples(NOISE, st.dictionaries(NAME, st.tuples(NOISE, VALUE), max_size=4)), min_size=1, max_size=3
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_lines_of_settings(sections: dict, end: str) -> None:
    lines: list[str] = []
    lines_by_name: dict[tuple[str, str], int] = {}
    for section, (noise, values) in sections.items():
        lines += noise
        lines.append(f"[{section}]")
        lines_by_name[section, ""] = len(lines)
        for name, (before, value) in values.items():
            lines += before
            lines_by_name[section, name] = len(lines) + 1
            lines += f"{name} = {value}".split("\n")
    text = end.join(lines)
    assert set(tomllib.loads(text)) == set(sections)
    assert lines_of(text) == lines_by_name
