"""Pages from templates: one file that makes no network requests.

A user's text never becomes code: templates escape every value, values for scripts are JSON with escaped ``<``, ``>``
and ``&``, and the page's security policy allows only its own scripts, by checksum, and ``data:`` URLs.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegan import __version__
from facegan.console import human_seconds
from facegan.web import known_packages, web_files

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent
_POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# The explorer's runtime is WebAssembly, and its scripts are files beside the page.
_EXPLORING = " 'wasm-unsafe-eval' 'self' file: blob:; connect-src blob: data:; worker-src blob:"


def render(template: str, scripts: tuple[str, ...], *, exploring: bool = False, **values: Any) -> bytes:
    """The page of a template of this folder, with scripts of this folder that run after the chart library."""
    library = web_files(known_packages()["uplot"])
    licence = library["LICENSE"].decode().strip()
    texts = [f"/* uPlot\n{licence}\n*/\n{library['uPlot.iife.min.js'].decode()}", *map(_own, scripts)]
    texts = [f"\n{text.strip()}\n" for text in texts]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    checksums = " ".join(f"'sha256-{digest}'" for digest in digests)
    policy = f"{_POLICY}; script-src {checksums}{_EXPLORING if exploring else ''}"
    styles = [library["uPlot.min.css"].decode(), _own("page.css")]
    page = _environment().get_template(template)
    text = page.render(policy=policy, scripts=texts, styles=styles, version=__version__, **values)
    return text.encode(errors="replace")  # file names may be invalid UTF-8


def _own(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _frame_json(frame: Any) -> dict[str, Any]:
    return {"images": frame.images, "src": frame.picture.src}


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # curves keep their order
    environment.filters["seconds"] = human_seconds
    environment.filters["frame_json"] = _frame_json
    environment.filters["number"] = lambda value: f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return environment
