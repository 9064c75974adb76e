"""Text of files in cards: whatever it holds, no heading, link, image or tag of the page comes from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from facegan.export.card import CardFacts, Provenance, card
from facegan.nets import NetSpec
from facegan.run_dir import Evaluation, RunFacts
from facegan.shards.cards import croissant, readme
from facegan.shards.format import DatasetInfo, Totals

MARKUP = (
    "</p><img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](http://a/b.png)",
    "<javascript:alert(1)>",
    "http://evil.example/ www.evil.example me@evil.example",
    "\n# A heading\n\n- a list\n\n---\n",
    "1. one",
    "a | b | c",
    "`code` ``more`` ```\n",
    "<!-- comment",
    "--> x",
    "&lt;img src=x&gt; &#60;script&#62;",
    "\\",
    "*bold* _slanted_ ~~gone~~ **x**",
    "x: y\n---\nlicense: mit",
    '"\n- !!python/object/apply:os.system ["x"]',
    "\x1b[31m\u202e\u2028\x85\udcff",
    "$x$ {{ x }} {% x %}",
    "[a]: javascript:alert(1)",
)
HOSTILE = st.one_of(
    st.sampled_from(MARKUP), st.text(st.sampled_from("<>[]()!`*_~|#-+=.1&;:/\\\"'\n ax"), max_size=12)
).filter(str.strip)
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def shape(page: str) -> tuple[list[str], Any]:
    """The page's elements in their order, without what they say; and its front matter."""
    _, front, body = page.split("---\n", 2)
    found: list[str] = []
    for block in MARKDOWN.parse(body):
        for token in block.children if block.children is not None else [block]:
            kind = "text" if token.type in ("text_special", "softbreak") else token.type
            if kind != "text" or found[-1:] != ["text"]:
                found.append(kind + "".join(map(str, token.attrs.values())))
    return found, yaml.safe_load(front)


def dataset(text: str, name: str) -> DatasetInfo:
    settings = {"size": 64, "format": "png", "crop": text, "detector": text, "split": text, name: text}
    return DatasetInfo(
        settings=settings,
        versions={"facegan": text, name: text},
        fingerprint=text,
        totals=Totals(photos=2, kept=1, rejected={name: 1}, ignored={text: 1}, faces=1, bytes=1),
        shards=(),
        photos_sha256="0" * 64,
    )


@settings(deadline=None, max_examples=60)
@given(HOSTILE, HOSTILE.filter(lambda name: name not in ("crop", "detector", "split", "size", "format")))
def test_the_card_of_a_dataset(text: str, name: str) -> None:
    assert shape(readme(dataset(text, name), None)) == shape(readme(dataset("a", "b"), None))
    json.loads(json.dumps(croissant(dataset(text, name), None)))


def model_card(text: str, name: str) -> str:
    record = {
        "settings": {"method": text, "loss": text, name: text},
        "dataset": {"faces": 3, "size": text, "path": text},
        "precision": text,
        "parameters": {text: 3, name: text},
        "versions": {text: text, name: text},
    }
    evaluation = {
        "metrics": {text: 1.0},
        "floors": {text: text},
        "protocol": {"split": text, text: text, name: text},
        "warnings": [text, name],
    }
    origin = Provenance(
        Path("g"), RunFacts.model_validate(record), 5, dataset(text, name), None, Evaluation.model_validate(evaluation)
    )
    return card(NetSpec(name=text), origin, CardFacts({"generator.safetensors": 3}, {}, 4))


@settings(deadline=None, max_examples=60)
@given(HOSTILE, HOSTILE)
def test_the_card_of_a_model(text: str, name: str) -> None:
    assume(len({text, name, "split", "method", "loss"}) == 5)
    (elements, front), (expected, plain) = shape(model_card(text, name)), shape(model_card("a", "b"))
    assert elements == expected
    assert front.keys() == plain.keys()
    assert front["license"] == "unknown"
    assert all(isinstance(tag, str) for tag in front["tags"])
    assert [result.keys() for result in front["model-index"]] == [result.keys() for result in plain["model-index"]]
