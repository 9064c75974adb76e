"""A page out of its templates: one file that asks nothing of any network.

No text of a user is a part of the page's code: templates escape all that they are given, values for scripts are JSON in
which ``<``, ``>`` and ``&`` are escapes, and the page's own security policy names its scripts by their sums and allows
no other, nor any address but ``data:``.
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
# A generator's runtime is WebAssembly, and its scripts are files beside the page.
_EXPLORING = " 'wasm-unsafe-eval' 'self' file: blob:; connect-src blob: data:; worker-src blob:"


def render(template: str, scripts: tuple[str, ...], *, exploring: bool = False, **values: Any) -> bytes:
    """
    Args:
        template: a file of this folder.
        scripts: files of this folder that the page runs, in this order, behind the chart library.

    Raises:
        WebPackageError: the chart library can't be had.
    """
    library = web_files(known_packages()["uplot"])
    licence = library["LICENSE"].decode().strip()
    texts = [f"/* uPlot\n{licence}\n*/\n{library['uPlot.iife.min.js'].decode()}", *map(_own, scripts)]
    texts = [f"\n{text.strip()}\n" for text in texts]
    sums = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)
    policy = f"{_POLICY}; script-src {sums}{_EXPLORING if exploring else ''}"
    styles = [library["uPlot.min.css"].decode(), _own("page.css")]
    page = _environment().get_template(template)
    text = page.render(policy=policy, scripts=texts, styles=styles, version=__version__, **values)
    return text.encode(errors="replace")  # names of files need not be texts


def _own(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"sort_keys": False}  # curves keep their order
    made.filters["seconds"] = human_seconds
    made.filters["frame_json"] = lambda frame: {"images": frame.images, "src": frame.picture.src}
    made.filters["number"] = lambda value: f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return made
