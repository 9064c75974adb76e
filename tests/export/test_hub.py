"""``facegan export --push``, to a hub on loopback, by the real program and the real client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facegan.nets import save_generator
from tests.cli.run import facegan
from tests.export.hub import TOKEN, hub_on_loopback
from tests.export.pairs import tiny_generator

FEW = ("--set", "export.program=false", "--set", "export.samples=1", "--quiet")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lone") / "lone.safetensors"
    save_generator(path, tiny_generator("mlp", 28, 1))
    return path


def test_what_was_exported_is_uploaded_and_nothing_else(generator: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with hub_on_loopback() as hub:
        ended = facegan(
            "export", generator, out, "--push", "faces", "--json", *FEW,
            HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HOME=str(tmp_path / "home"),
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + str(hub.unknown)
    assert json.loads(ended.stdout)["pushed"] == f"{hub.url}/somebody/faces"
    (created,) = hub.created
    assert (created["name"], created.get("private") or created.get("visibility") == "private") == ("faces", True)
    assert hub.files == {path.name: path.read_bytes() for path in out.iterdir() if path.name != "mine.txt"}
    assert "config.json" in hub.files


def test_strangers_are_told_before_anything_is_computed(generator: Path, tmp_path: Path) -> None:
    with hub_on_loopback() as hub:
        for token, said in {"": "nobody is logged in", "hf_" + "b" * 34: "does not accept this login"}.items():
            ended = facegan(
                "export", generator, tmp_path / "out", "--push", "somebody/faces", *FEW,
                HF_ENDPOINT=hub.url, HF_TOKEN=token, HF_HOME=str(tmp_path / "home"),
            )  # fmt: skip
            assert ended.returncode == 2
            assert said in ended.stderr
            assert "hf auth login" in ended.stderr
            assert "Traceback" not in ended.stderr
    assert hub.created == []
    assert not (tmp_path / "out").exists()


def test_a_hub_that_is_not_there(generator: Path, tmp_path: Path) -> None:
    ended = facegan(
        "export", generator, tmp_path / "out", "--push", "somebody/faces", *FEW,
        HF_ENDPOINT="http://127.0.0.1:9", HF_TOKEN=TOKEN, HF_HOME=str(tmp_path / "home"),
    )  # fmt: skip
    assert ended.returncode == 1
    assert "The Hugging Face Hub did not take somebody/faces" in ended.stderr
