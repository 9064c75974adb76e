"""``facegan export --push`` by the real client, to a hub on loopback."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from facegan.nets import save_generator
from tests.export.tiny_generators import tiny_generator
from tests.recipes.program import facegan

TOKEN = "hf_" + "a" * 34


@dataclass
class Hub:
    """The repositories created and files committed."""

    url: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def hub_on_loopback() -> Iterator[Hub]:
    """With the endpoints that an upload needs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            user = {"type": "user", "name": "somebody", "orgs": [], "auth": {"type": "access_token"}}
            self._answer(user if self.path == "/api/whoami-v2" else None)

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer: dict[str, Any] | None = None
            if self.path == "/api/repos/create":
                hub.created.append(json.loads(data))
                answer = {"url": f"{hub.url}/somebody/{hub.created[-1]['name']}"}
            elif self.path == "/api/validate-yaml":
                answer = {"errors": [], "warnings": []}
            elif "/preupload/" in self.path:
                paths = [file["path"] for file in json.loads(data)["files"]]
                answer = {"files": [{"path": it, "uploadMode": "regular", "shouldIgnore": False} for it in paths]}
            elif "/commit/" in self.path:
                files = [entry["value"] for entry in map(json.loads, data.splitlines()) if entry["key"] == "file"]
                hub.files.update({file["path"]: base64.b64decode(file["content"]) for file in files})
                answer = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{hub.url}/a/b/commit/{'0' * 40}"}
            self._answer(answer)

        def _answer(self, answer: dict[str, Any] | None) -> None:
            is_known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            status = 404 if answer is None else 200 if is_known else 401
            data = json.dumps(answer if status == 200 else {"error": "no"}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def arguments(folder: Path, name: str) -> tuple[object, ...]:
    save_generator(folder / "lone.safetensors", tiny_generator("mlp", 28, 1))
    options = ("--set", "export.program=false", "--set", "export.samples=1", "--json")
    return ("export", folder / "lone.safetensors", folder / "out", "--push", name, *options)


def test_only_exported_files_are_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_on_loopback() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        ended = facegan(*arguments(tmp_path, "faces"))
    assert ended.code == 0, ended.stderr
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
def test_login_is_checked_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, code: int, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "home/token"))
    with hub_on_loopback() as hub:
        url = "http://127.0.0.1:9" if token == TOKEN else hub.url
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        ended = facegan(*arguments(tmp_path, "somebody/faces"))
    assert (ended.code, hub.created) == (code, []), ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()
