"""``facegan export --push`` by the real program and client, to a hub on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from facegan.nets import save_generator
from tests.cli.run import facegan
from tests.export.fake_hub import TOKEN, hub_on_loopback
from tests.export.tiny_generators import tiny_generator


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lone") / "lone.safetensors"
    save_generator(path, tiny_generator("mlp", 28, 1))
    return path


def push(generator: Path, tmp_path: Path, name: str, url: str, token: str = TOKEN) -> CompletedProcess[str]:
    options = ("--set", "export.program=false", "--set", "export.samples=1", "--json")
    variables = {"HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "home")}
    arguments = ("export", generator, tmp_path / "out", "--push", name, *options)
    return facegan(*arguments, cwd=None, **variables)


def test_only_exported_files_are_uploaded(generator: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with hub_on_loopback() as hub:
        ended = push(generator, tmp_path, "faces", hub.url)
    assert ended.returncode == 0, ended.stderr + str(hub.unknown)
    assert json.loads(ended.stdout)["pushed"] == f"{hub.url}/somebody/faces"
    (created,) = hub.created
    assert (created["name"], created.get("private") or created.get("visibility") == "private") == ("faces", True)
    assert hub.files == {path.name: path.read_bytes() for path in out.iterdir() if path.name != "mine.txt"}
    assert "config.json" in hub.files


@pytest.mark.parametrize(("token", "message"), [("", "not logged in"), ("hf_" + "b" * 34, "rejected your login")])
def test_login_is_checked_before_work(generator: Path, tmp_path: Path, token: str, message: str) -> None:
    with hub_on_loopback() as hub:
        ended = push(generator, tmp_path, "somebody/faces", hub.url, token)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "hf auth login" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert hub.created == []
    assert not (tmp_path / "out").exists()


def test_unreachable_hub_is_an_error(generator: Path, tmp_path: Path) -> None:
    ended = push(generator, tmp_path, "somebody/faces", "http://127.0.0.1:9")
    assert ended.returncode == 1
    assert "did not accept somebody/faces" in ended.stderr
