"""A run of small discs with several grids, and a real browser without a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.training.toy import toy_train

SLIDE = "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }"
_PATIENCE_MS = 180_000  # a machine may be busy


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: use `run`."""
    folder = tmp_path_factory.mktemp("report") / "discs"
    toy_train(folder, images=320, lr_g=1e-3, sample_every=64, log_every=16)
    return folder


@pytest.fixture
def run(toy_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_run, tmp_path / "discs"))


def edit_record(run: Path, **values: Any) -> None:
    """Change values of run.json; ``dataset`` is merged."""
    record = json.loads((run / "run.json").read_text())
    dataset = {**record["dataset"], **values.pop("dataset", {})}
    (run / "run.json").write_text(json.dumps({**record, **values, "dataset": dataset}))


def add_rows(run: Path, *rows: dict[str, Any]) -> None:
    with (run / "stats.jsonl").open("a") as file:
        file.writelines(json.dumps({"images": 64, "rounds": 4, **row}) + "\n" for row in rows)


class Watched:
    def __init__(self, page: Any) -> None:
        self.page, self.requests, self.complaints = page, [], []
        page.set_default_timeout(_PATIENCE_MS)
        page.route("**/*", self._let_through)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))

    def _let_through(self, route: Any) -> None:
        url = route.request.url
        self.requests.append(url)
        if url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.complaints.append(f"requested {url}")
            route.abort()

    def open(self, file: Path) -> Any:
        self.page.goto(file.resolve().as_uri())
        return self.page

    def set(self, slider: str, value: float) -> None:
        """Set the value and fire its event, as a hand would."""
        self.page.eval_on_selector(slider, SLIDE, value)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("needs Chromium: sudo apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root may not use Chromium's sandbox; these pages are our own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=_PATIENCE_MS)
        yield browser
        browser.close()


@contextmanager
def watching(chromium: Any, *, scheme: str = "light", width: int = 1280) -> Iterator[Watched]:
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    watched = Watched(context.new_page())
    yield watched
    context.close()
    assert watched.complaints == []
