"""What a recipe may say, and what is said of one that can't be: the line, the rule, the nearest name."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegan.config import PrepConfig, TrainConfig
from facegan.config.resources import SECTIONS
from facegan.errors import SettingsError
from facegan.recipes.recipe import lines_of, packaged_recipes, read_recipe
from facegan.recipes.resolve import UNITS, show_settings
from tests.recipes.program import facegan

PREP = '[prep]\nsource = "portraits:9"\n'


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mine.toml says nothing: a recipe has the sections [prep] and [train]"),
        (PREP + "\n\nsizze = 64\n", "mine.toml, line 5: There is no setting 'sizze' in [prep]. Did you mean 'size'?"),
        (PREP + "batch = 64\n", "mine.toml, line 3: There is no setting 'batch' in [prep]. It belongs in [train]."),
        (PREP + "size = 48\n", "mine.toml, line 3: --size 48 is not offered: choose 28, 32, 64 or 128"),
        (PREP + 'crop = "alligned"\n', "mine.toml, line 3: --crop alligned is not offered"),
        (PREP + "limit = 0\n", "mine.toml, line 3: --limit 0: it has to be greater than 0."),
        (PREP + "workers = 0\n", "mine.toml, line 3: --workers 0: it has to be auto, or a whole number from 1 up."),
        (PREP + 'out = "s3://b/out"\n', "mine.toml, line 3: prep.out = s3://b/out: a recipe makes its dataset in"),
        (PREP + 'detector = "none"\n', "mine.toml, line 3: --crop aligned cuts out a face, and --detector none"),
        ("[prep]\nsize = 64\n", "mine.toml, line 1: [prep] needs a source"),
        ('[prep]\nsource = ""\n', "mine.toml, line 2: [prep] needs a source"),
        ("[train]\nbatch = 4\n", "mine.toml, line 1: [train] has no faces: name a dataset with train.shards"),
        (PREP + '[train]\nshards = "out"\n', "mine.toml, line 4: train.shards = out does not go with [prep]"),
        (PREP + '[train]\nmethod = "dcgn"\n', "mine.toml, line 4: --method dcgn is not offered"),
        (PREP + '[train]\n\nimages = "5x"\n', "mine.toml, line 5: --images 5x: write a length in images"),
        (PREP + '[train]\ndevice = "gpu"\n', "mine.toml, line 4: --device gpu is not offered"),
        (PREP + '[train]\nsplit = "best"\n', "mine.toml, line 4: --split best is not offered: choose train, val or"),
        (PREP + '[train]\nloss = "wgan-gp"\n', "mine.toml, line 3: train.norm = batch does not go with the loss"),
        (PREP + "[train]\ngp_weight = 1\n", "mine.toml, line 4: train.gp_weight changes nothing with the loss"),
        (PREP + "[train]\nlr_g = nan\n", "mine.toml, line 4: --lr-g nan"),
        (PREP + "[train.adam]\nbeta1 = 0\n", "mine.toml, line 3: There is no setting 'adam' in [train]."),
        (PREP + "[[train]]\nbeta1 = 0\n", "mine.toml, line 3: 'train' stands in no section"),
        (PREP + "[eval]\nn = 10\n", "mine.toml, line 3: [eval] measures what [train] made, and there is no [train]."),
        (PREP + "[export]\n", "mine.toml, line 3: [export] writes what [train] made, and there is no [train]."),
        (PREP + "[train]\n[export]\nsamples = 0\n", "mine.toml, line 5: --samples 0: it has to be greater than 0."),
        (PREP + "[report]\n", "mine.toml, line 3: [report] shows what [train] made, and there is no [train]."),
        (PREP + "[trian]\n", "mine.toml, line 3: There is no section [trian]: choose prep, train"),
        ("# x\nsize = 64\n" + PREP, "mine.toml, line 2: 'size' stands in no section"),
        (PREP + "size = \n", "mine.toml, line 3: this is no TOML"),
        (PREP + "[prep]\n", "mine.toml, line 3: this is no TOML"),
        (PREP + 'a = """\n', "this is no TOML"),
    ],
)
def test_what_can_not_be_is_told_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as told:
        read_recipe(written(tmp_path, text))
    assert said in str(told.value)
    assert 1 <= len(str(told.value).splitlines()) <= 3


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"#" * 1_000_001])
def test_a_file_that_is_no_text(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(data)
    with pytest.raises(SettingsError, match=r"mine\.toml is no recipe"):
        read_recipe(str(tmp_path / "mine.toml"))


def test_recipes_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, PREP)
    for name, near in [("smokey", "'smoke'"), ("mine", "mine.toml"), ("mein.toml", "'mine.toml'")]:
        with pytest.raises(SettingsError, match=f"There is no recipe (.|\n)*Did you mean {near}") as told:
            read_recipe(name)
        assert len(str(told.value).splitlines()) <= 2
    with pytest.raises(SettingsError, match=r"There is no recipe '\.'"):
        read_recipe(".")


def test_set_goes_over_the_file(tmp_path: Path) -> None:
    name = written(tmp_path, "\ufeff" + PREP + "size = 48\r\n[train]\nimages = 5\n")
    recipe = read_recipe(
        name, {"prep": {"size": "32", "limit": "5"}, "train": {"images": "20k", "random_flip": "true"}}
    )
    assert recipe.prep is not None
    assert recipe.photos is not None
    assert (recipe.prep.size, recipe.photos.limit) == (32, 5)
    assert (recipe.train().images, recipe.train().random_flip) == (20_000, True)


@pytest.mark.parametrize(
    ("section", "setting", "value", "said"),
    [
        ("prep", "sise", "64", "--set prep.sise=64: There is no setting 'sise' in [prep]. Did you mean 'size'?"),
        ("prep", "size", "48", "--size 48 is not offered"),
        ("train", "batch", "4", "--set train.batch: mine.toml has no [train]."),
        ("report", "n", "4", "--set report.n: mine.toml has no [report]."),
        (
            "prp",
            "n",
            "4",
            "--set prp.n: There is no section [prp]: choose prep, train, eval, export or report. Did you",
        ),
    ],
)
def test_set_that_can_not_be(section: str, setting: str, value: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as told:
        read_recipe(written(tmp_path, PREP), {section: {setting: value}})
    assert str(told.value).startswith(said)


def test_the_method_sets_what_the_recipe_does_not(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, PREP + '[train]\nmethod = "wgan-gp"\nlr_d = 2e-4\n'))
    own = TrainConfig.for_method("wgan-gp", lr_d=2e-4)
    assert recipe.train() == own
    shown = {
        row["name"]: row for row in json.loads(facegan("recipes", "show", recipe.file, "--json").stdout)["settings"]
    }
    assert (shown["lr_d"]["value"], shown["lr_d"]["default"], shown["lr_d"]["set"]) == (2e-4, 3e-4, True)
    assert (shown["batch"]["value"], shown["batch"]["default"], shown["batch"]["set"]) == (32, 32, False)


def test_the_nets_set_what_neither_recipe_nor_method_does(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, PREP + '[train]\nnets = "mlp"\nwidth = 8\n'))
    shown = {row.name: row for row in show_settings(recipe)}
    assert (
        shown["latent_distribution"].value,
        shown["latent_distribution"].default,
        shown["latent_distribution"].set,
    ) == (
        "uniform01",
        "uniform01",
        False,
    )
    assert (shown["width"].value, shown["width"].default) == (8, 128)


@pytest.mark.parametrize("name", packaged_recipes())
def test_show_prints_every_setting_with_value_default_unit_and_meaning(name: str) -> None:
    recipe, told = read_recipe(name), json.loads(facegan("recipes", "show", name, "--json").stdout)
    shown = {(row["section"], row["name"]): row for row in told["settings"]}
    sections = {section: configs for section, configs in SECTIONS.items() if section in recipe.given}
    assert list(shown) == [(s, n) for s, configs in sections.items() for config in configs for n in config.model_fields]
    for (section, setting), row in shown.items():
        assert row["meaning"]
        assert row["unit"] == UNITS[section].get(setting, "")
        assert row["set"] == (setting in recipe.given[section])
        if not row["set"]:
            assert row["value"] == row["default"]
    assert told["heading"] == recipe.heading
    for word in ("Paper:", "Follows:", "Expected:", "Time:"):
        assert word in recipe.heading
    text = facegan("recipes", "show", name).stdout
    assert text.startswith(recipe.heading)
    assert all(f" {setting} " in text for _, setting in shown)


def test_units_are_those_of_settings_that_there_are() -> None:
    for section, units in UNITS.items():
        names = [name for config in SECTIONS[section] for name in config.model_fields]
        assert set(units) <= set(names)
        assert len(set(names)) == len(names)
    assert SECTIONS["prep"][1] is PrepConfig


NAME = st.text("abcdefghij_", min_size=1, max_size=6)
VALUE = st.sampled_from(
    ["1", '"a # b"', "[1,\n  2, # [x]\n]", '"""\n[prep]\nx = 1\n"""', "'''\n# y\n'''", "[\n[1],\n\n[2]]", "true # z"]
)
NOISE = st.lists(st.sampled_from(["", "# c = 1", "   ", "\t# [d]"]), max_size=2)


@given(
    st.dictionaries(
        NAME, st.tuples(NOISE, st.dictionaries(NAME, st.tuples(NOISE, VALUE), max_size=4)), min_size=1, max_size=3
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_lines_are_those_on_which_settings_were_written(sections: dict, end: str) -> None:
    lines: list[str] = []
    places: dict[tuple[str, str], int] = {}
    for section, (noise, values) in sections.items():
        lines += noise
        lines.append(f"[{section}]")
        places[section, ""] = len(lines)
        for name, (before, value) in values.items():
            lines += before
            places[section, name] = len(lines) + 1
            lines += f"{name} = {value}".split("\n")
    text = end.join(lines)
    assert set(tomllib.loads(text)) == set(sections)
    assert lines_of(text) == places


def test_lines_of_dotted_names_before_any_section() -> None:
    assert lines_of("\nprep.size = 3\nprep.limit = 4\nx = 1\n") == {
        ("prep", ""): 2,
        ("prep", "size"): 2,
        ("prep", "limit"): 3,
        ("", "x"): 4,
    }
