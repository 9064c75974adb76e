"""``facegan recipes``, and the recipes that come with facegan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facegan.recipes.recipe import packaged_recipes, read_recipe
from tests.digits import write_mnist
from tests.prep.cifar_files import write_cifar10
from tests.recipes.program import facegan


def test_list_shows_headings() -> None:
    found = json.loads(facegan("recipes", "list", "--json").stdout)["recipes"]
    assert {recipe["name"] for recipe in found} == set(packaged_recipes()) >= {"smoke", "own-photos", "mnist-mlp"}
    assert all(recipe["what"].endswith(".") for recipe in found)
    text = facegan("recipes", "list").stdout
    assert all(recipe["name"] in text and recipe["what"] in text for recipe in found)

    checked = json.loads(facegan("recipes", "check", "--json").stdout)
    assert checked["ok"]
    assert {recipe["recipe"] for recipe in checked["recipes"]} == set(packaged_recipes())


PHOTOS = '[prep]\nsource = "photos"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[prep]\nsource = "fotos"\n', "mine.toml, line 2: There is no fotos. Did you mean 'photos'?\n"),
        (PHOTOS + '\nattributes = "a.txt"\n', "mine.toml, line 4: There is no a.txt."),
        (PHOTOS + '[train]\ninit = "runs/x"\n', "mine.toml, line 4: There is no runs/x."),
        ('[prep]\nsource = "portraits:0"\n', "mine.toml, line 2: portraits:0: write portraits:N with a number from 1"),
        (PHOTOS + "size = 28\n[train]\nwidth = 4\n", "mine.toml, line 4: The nets 'dcgan' support 32, 64 or 128"),
    ],
)
def test_check_finds_errors(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("mine.toml").write_text(text)
    ended = facegan("recipes", "check", "smoke", "mine.toml", "nonsense")
    assert ended.code == 1
    assert "smoke: ok\n" in ended.stdout
    assert f"mine.toml: {message}" in ended.stdout
    assert "nonsense: There is no recipe 'nonsense'" in ended.stdout


def test_check_accepts_other_sources(tmp_path: Path) -> None:
    sources = ("s3://bucket/photos", "laion/{00..09}.tar", "torchvision:MNIST", "portraits:5:3")
    for number, source in enumerate(sources):
        (tmp_path / f"{number}.toml").write_text(f'[prep]\nsource = "{source}"\n')
    assert facegan("recipes", "check", *tmp_path.iterdir()).code == 0


def test_copy_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert facegan("recipes", "copy", "smoke", "new/mine.toml").stdout == "new/mine.toml\n"
    assert Path("new/mine.toml").read_bytes() == packaged_recipes()["smoke"].read_bytes()
    again = facegan("recipes", "copy", "own-photos", "new/mine.toml")
    assert (again.code, again.stderr) == (2, "error: new/mine.toml exists. Choose another name.\n")
    assert facegan("recipes", "copy", "smoke", "mine.txt").code == 2
    assert "Did you mean 'smoke'?" in facegan("recipes", "copy", "smok", "mine.toml").stderr
    assert [path.name for path in Path().iterdir()] == ["new"]


@pytest.fixture
def tiny_source(name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> object:
    """Sixteen images for a recipe, where it looks for them."""
    kind = read_recipe(name).values["prep"]["source"]
    if kind == "torchvision:CIFAR10":
        return f"{kind}:{write_cifar10(tmp_path / 'root', monkeypatch, 4)}"
    if kind.startswith("torchvision:"):
        return f"{kind}:{write_mnist(tmp_path / 'root', kind.partition(':')[2], 16, 4)}"
    request.getfixturevalue("models")
    return request.getfixturevalue("portraits")


@pytest.mark.parametrize("name", packaged_recipes())
def test_each_recipe_starts(name: str, tmp_path: Path, tiny_source: object) -> None:
    """One iteration, on drawn portraits with the real detector if the recipe has one, or on digits."""
    tiny = {"prep.source": tiny_source, "prep.workers": 0, "prep.shard_size": 24}
    tiny |= {} if "torchvision" in str(tiny_source) else {"prep.limit": 16}
    tiny |= {"eval.n": 4, "eval.metrics": "ms_ssim", "eval.neighbours": 0, "eval.device": "cpu"}
    tiny |= {"train.images": "1st", "train.width": 4, "train.batch": 4, "train.device": "cpu"}
    tiny |= (
        {"train.eval_n": 4, "train.eval_metrics": "frechet_random"}
        if "eval_every" in read_recipe(name).values["train"]
        else {}
    )
    sets = [word for setting, value in tiny.items() for word in ("--set", f"{setting}={value}")]
    ended = facegan("run", name, *sets, "--to", tmp_path / "to", "--json")
    assert ended.code == 0, ended.stderr
    stages = {stage["stage"]: stage["result"] for stage in json.loads(ended.stdout)["stages"]}
    assert stages["prep"]["kept"] >= 15
    run = json.loads((tmp_path / "to/run/run.json").read_text())
    assert stages["train"]["images"] == 4 * run["settings"]["d_steps"]
    assert run["dataset"]["channels"] == run["nets"]["channels"] == read_recipe(name).values["prep"].get("channels", 3)
    assert (tmp_path / "to/samples.png").is_file()
    assert 0 < stages["eval"]["metrics"]["ms_ssim"] <= 1
