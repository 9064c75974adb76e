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


def push(folder: Path, name: str, url: str, token: str = TOKEN) -> CompletedProcess[str]:
    save_generator(folder / "lone.safetensors", tiny_generator("mlp", 28, 1))
    options = ("--set", "export.program=false", "--set", "export.samples=1", "--json")
    variables = {"HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HOME": str(folder / "home")}
    arguments = ("export", folder / "lone.safetensors", folder / "out", "--push", name, *options)
    return facegan(*arguments, cwd=None, **variables)


def test_only_exported_files_are_uploaded(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with hub_on_loopback() as hub:
        ended = push(tmp_path, "faces", hub.url)
    assert ended.returncode == 0, ended.stderr + str(hub.unknown)
    assert json.loads(ended.stdout)["pushed"] == f"{hub.url}/somebody/faces"
    (created,) = hub.created
    assert (created["name"], created.get("private") or created.get("visibility") == "private") == ("faces", True)
    assert hub.files == {path.name: path.read_bytes() for path in out.iterdir() if path.name != "mine.txt"}
    assert "config.json" in hub.files


@pytest.mark.parametrize(
    ("token", "code", "message"),
    [
        ("", 2, "hf auth login"),
        ("hf_" + "b" * 34, 2, "rejected your login"),
        (TOKEN, 1, "did not accept somebody/faces"),
    ],
)
def test_login_is_checked_before_work(tmp_path: Path, token: str, code: int, message: str) -> None:
    with hub_on_loopback() as hub:
        ended = push(tmp_path, "somebody/faces", "http://127.0.0.1:9" if token == TOKEN else hub.url, token)
    assert (ended.returncode, hub.created) == (code, [])
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()
