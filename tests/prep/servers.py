"""Local servers: an S3 store, and an HTTP server that fails on request."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tests.prep.fake import photo

FAST = {
    "FACEGAN_RETRY_SECONDS": "0.01,0.02,0.05",
    "FACEGAN_TIMEOUT_SECONDS": "0.5",
    "FACEGAN_PRIVATE_URLS": "allow",  # tables name servers on loopback
}


@contextlib.contextmanager
def s3_server() -> Iterator[None]:
    """moto's S3 with an empty bucket ``faces``, which s3fs finds in this process and in those it starts."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "FACEGAN_RETRY_SECONDS": FAST["FACEGAN_RETRY_SECONDS"],
        "NO_PROXY": "127.0.0.1",
    }
    with mock.patch.dict(os.environ, environment):
        fs = fsspec.filesystem("s3")
        fs.clear_instance_cache()
        reset = urllib.request.Request(f"{url}/moto-api/reset", method="POST")  # moto keeps buckets for its process
        urllib.request.urlopen(reset).close()
        fsspec.filesystem("s3").mkdir("faces")
        try:
            yield
        finally:
            server.stop()
            fs.clear_instance_cache()


class FlakyServer:
    """Serves a folder.

    Faults are ``drop`` (no byte is sent), a status such as ``503``, ``short`` (the connection ends inside the body),
    ``no length`` (the same, without a declared length), ``hang``, ``endless`` (bytes without end and length), ``slow``
    (a few bytes now and then) and ``slow head`` (headers byte by byte).
    """

    def __init__(self, folder: Path, keeps_alive: bool = False) -> None:
        self.folder, self.ranges = folder, True
        self.faults: dict[str, list[str]] = {}  # by file, those of its next requests in order
        self.always: dict[str, str] = {}  # by file, that of every later request
        self.waits: dict[str, float] = {}  # by file, seconds before it responds
        self.busy_until, self.busy_seconds = 0.0, 0  # until then (monotonic) it answers 429 with this Retry-After
        self.crowd = 1  # the number of concurrent requests that it waits for before it responds to the first
        self.at_once = self.most_at_once = self.connections = 0
        self.asked: Counter[str] = Counter()  # requests for a file's bytes
        self.sent: Counter[str] = Counter()  # bytes of endless files
        self._changed = threading.Condition()
        self.closing = threading.Event()
        flaky = self

        class Handler(_Handler):
            served = flaky
            protocol_version = "HTTP/1.1" if keeps_alive else "HTTP/1.0"

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> FlakyServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @contextlib.contextmanager
    def answering(self, name: str) -> Iterator[None]:
        """Counts a request, and waits as `crowd` and `waits` say."""
        with self._changed:
            self.asked[name] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most_at_once >= self.crowd or self.closing.is_set(), 30)
        try:
            self.closing.wait(self.waits.get(name, 0))
            yield
        finally:
            with self._changed:
                self.at_once -= 1

    def was_asked(self, requests: int) -> bool:
        """Wait for so many requests; False if they do not come."""
        with self._changed:
            return self._changed.wait_for(lambda: self.asked.total() >= requests, 60)

    def fault(self, name: str) -> str:
        waiting = self.faults.get(name)
        return waiting.pop(0) if waiting else self.always.get(name, "")


class _Handler(http.server.BaseHTTPRequestHandler):
    served: FlakyServer

    def setup(self) -> None:
        super().setup()
        with self.served._changed:
            self.served.connections += 1

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        with self.served.answering(self.path.partition("?")[0].lstrip("/")):
            self._answer(head=False)

    def _answer(self, head: bool) -> None:
        name = self.path.partition("?")[0].lstrip("/")
        path = self.served.folder / name
        fault = "" if head else self.served.fault(name)
        if fault:
            self.close_connection = True
        if fault == "hang":
            self.served.closing.wait(5)
        if fault in ("hang", "drop"):
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "endless":
            self._send_forever(name)
            return
        if fault == "slow head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            self._send_slowly(b"x" * 5000)
            return
        if time.monotonic() < self.served.busy_until:
            self.send_response(429)
            self.send_header("Retry-After", str(self.served.busy_seconds))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault.isdigit() or not path.is_file():
            self.send_error(int(fault or 404))
            return
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and self.served.ranges:
            start, end = int(asked[1]), int(asked[2]) + 1
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{min(end, len(data)) - 1}/{len(data)}")
            data = data[start:end]
        else:
            self.send_response(200)
        if fault != "no length":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "slow":
            self._send_slowly(data)
        elif not head:
            with contextlib.suppress(ConnectionError):  # the client may have left
                self.wfile.write(data[: len(data) // 2] if fault in ("short", "no length") else data)

    def _send_forever(self, name: str) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            while not self.served.closing.is_set():
                self.served.sent[name] += self.wfile.write(bytes(10_000))

    def _send_slowly(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(data), 10):
                self.wfile.write(data[at : at + 10])
                if self.served.closing.wait(0.1):
                    break

    def log_message(self, format: str, *args: object) -> None:
        pass


# Tables of the URLs of forty photographs.

PHOTOS = {f"{number:02d}.jpg": photo(60, 60, seed=number) for number in range(40)}  # as `write_photos` names them
NAMES = sorted(PHOTOS)


def url_table(path: Path, urls: list[str | None], names: list[str] | None = None) -> Path:
    pq.write_table(pa.table({"url": urls, "path": names or [f"{i:04d}.jpg" for i in range(len(urls))]}), path)
    return path


def table_of(path: Path, url: str, names: list[str] = NAMES) -> Path:
    return url_table(path, [f"{url}/{name}" for name in names], names)
