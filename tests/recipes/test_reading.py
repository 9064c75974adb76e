"""Reading recipes: valid ones, and errors with the line, the rule and the closest name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
        ("[train]\nbatch = 4\n", "mine.toml, line 1: [train] needs one source of faces"),
        (PREP + '[train]\nshards = "out"\n', "mine.toml, line 4: [train] needs one source of faces"),
        (PREP + '[train]\n\nimages = "5x"\n', "mine.toml, line 5: --images 5x is not a length. Write images"),
        (PREP + '[train]\nloss = "wgan-gp"\n', "mine.toml, line 3: train.norm = batch cannot be used with the loss"),
        (PREP + "[train]\ngp_weight = 1\n", "mine.toml, line 4: train.gp_weight has no effect with the loss"),
        (PREP + "[train.adam]\nbeta1 = 0\n", "mine.toml, line 3: There is no setting 'adam' in [train]."),
        (PREP + "[eval]\nn = 10\n", "mine.toml, line 3: [eval] needs the generator of a section [train]."),
        (PREP + "[trian]\n", "mine.toml, line 3: There is no section [trian]. Choose prep, train"),
        ("# x\nsize = 64\n" + PREP, "mine.toml, line 2: 'size' is in no section"),
        (PREP + "size = \n", "mine.toml, line 3: invalid TOML"),
    ],
)
def test_errors_name_their_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_recipe(written(tmp_path, text))
    assert said in str(caught.value)
    assert 1 <= len(str(caught.value).splitlines()) <= 3


def test_binary_and_huge_files_are_refused(tmp_path: Path) -> None:
    for data in (b"\xff\xfe\x00", b"#" * 1_000_001):
        (tmp_path / "mine.toml").write_bytes(data)
        with pytest.raises(SettingsError, match=r"mine\.toml is not a recipe"):
            read_recipe(str(tmp_path / "mine.toml"))


def test_missing_recipes_suggest_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, PREP)
    for name, near in [("smokey", "Did you mean 'smoke'"), ("mein.toml", "Did you mean 'mine.toml'"), (".", "")]:
        with pytest.raises(SettingsError, match=f"There is no recipe (.|\n)*{near}"):
            read_recipe(name)


def test_set_overrides_the_file(tmp_path: Path) -> None:
    name = written(tmp_path, "\ufeff" + PREP + "size = 48\r\n[train]\nimages = 5\n")
    sets = {"prep": {"size": "32", "limit": "5"}, "train": {"images": "20k", "random_flip": "true"}}
    recipe = read_recipe(name, sets)
    assert (recipe.settings(PrepConfig).size, recipe.settings(PhotosConfig).limit) == (32, 5)
    assert (recipe.train().images, recipe.train().random_flip) == (20_000, True)


@pytest.mark.parametrize(
    ("section", "setting", "value", "said"),
    [
        ("prep", "sise", "64", "--set prep.sise=64: There is no setting 'sise' in [prep]. Did you mean 'size'?"),
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
    sections = [(section, configs) for section, configs in SECTIONS.items() if section in recipe.values]
    assert list(shown) == [(s, n) for s, configs in sections for config in configs for n in config.model_fields]
    for (section, setting), row in shown.items():
        assert row["meaning"]
        assert row["set"] == (setting in recipe.values[section])
        assert row["set"] or row["value"] == row["default"]
    assert found["heading"] == recipe.heading
    assert all(word in recipe.heading for word in ("Paper:", "Follows:", "Expected:", "Time:"))
    text = facegan("recipes", "show", name).stdout
    assert text.startswith(recipe.heading)
    assert all(f" {setting} " in text for _, setting in shown)


TRICKY = """\
# c = 1
[prep]
\t# [d]
a = "a # b"
b = [1,
  2, # [x]
]

[train]
c = \"\"\"
[prep]
x = 1
\"\"\"
d = \'\'\'
# y
\'\'\'
[eval]
e = [
[1],

[2]]
a = true # z
"""


def test_lines_of_settings() -> None:
    expected = {("prep", ""): 2, ("prep", "a"): 4, ("prep", "b"): 5, ("train", ""): 9, ("train", "c"): 10}
    expected |= {("train", "d"): 14, ("eval", ""): 17, ("eval", "e"): 18, ("eval", "a"): 22}
    assert lines_of(TRICKY) == lines_of(TRICKY.replace("\n", "\r\n")) == expected
