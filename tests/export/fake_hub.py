"""The endpoints of the Hugging Face Hub that an upload needs, on loopback."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "a" * 34


@dataclass
class Hub:
    """Its requests: repositories created, files committed, and unknown endpoints."""

    url: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


@contextmanager
def hub_on_loopback() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = self.path == "/api/whoami-v2"
            whoami = {"type": "user", "name": "somebody", "orgs": [], "auth": {"type": "access_token"}}
            self._answer(whoami if known else None)

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
            status = 200 if self.headers.get("Authorization") == f"Bearer {TOKEN}" else 401
            if answer is None:
                hub.unknown.append(f"{self.command} {self.path}")
                status = 404
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
