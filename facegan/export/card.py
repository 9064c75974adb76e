"""README.md: the model card, with the YAML front matter that Hugging Face's hub reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from facegan import __version__
from facegan.config import TrainConfig
from facegan.export.difference import Difference
from facegan.export.onnx import OPSET
from facegan.export.origin import Origin
from facegan.export.program import FILE_NAME as PROGRAM_NAME
from facegan.export.snippet import onnx_snippet, program_snippet, torch_snippet
from facegan.files import human_bytes
from facegan.nets import NetSpec
from facegan.shards.cards.markdown import code, plain, table, text

FILE_NAME, PICTURE_NAME = "README.md", "samples.png"
LIBRARY = "library_name: facegan"  # a line of the front matter, by which a card is known as ours
_MEANINGS = {
    "generator.safetensors": "the weights, of the generator's moving average",
    "config.json": "what goes in and comes out, the graph of its operations, sums of the other files",
    "generator.pt2": "a torch.export program",
    "generator.onnx": f"ONNX, opset {OPSET}, float32",
    "generator-fp16.onnx": "ONNX in float16 (latents and images stay float32)",
    "generator-int8.onnx": "ONNX with 8-bit weights and activations (latents and images stay float32)",
    "samples.png": "samples, not chosen",
}
_USE = """\
Made to study how such networks learn and what they draw, to teach it, and to compare methods. It draws small pictures \
of what it was trained on, and nothing can be asked of it but another draw.

It is not for making anyone believe that a person exists, or did something; not for pictures of real people; and no \
basis for judging people. Say of its pictures that they are generated."""
_LIMITS = """\
- What its training photographs lack, it does not draw; where they are one-sided (in age, skin, pose, light), so is it.
- A generator can give back faces that it was trained on, above all one trained on few. A face is personal data: \
whoever passes this model on has to be allowed to, and to take it back where a person in its photographs asks for it.
- Pictures are small and some of them broken; metrics hold for their protocol alone."""
_TERMS = """\
The code that drew this, facegan, is under Apache-2.0. That says nothing of the weights: they are made from \
photographs, and the terms of those may hold for them."""
_NO_TERMS = """\
facegan was not told where the photographs come from, so it can't say what may be done with a model made of them. \
Whoever passes it on has to know, and to say so here."""


@dataclass(frozen=True)
class Made:
    """What was exported: sizes of files by name, how far ONNX files are from PyTorch, why there is no graph."""

    files: Mapping[str, int]
    differences: Mapping[str, Difference]
    no_graph: str
    samples: int


def card(spec: NetSpec, origin: Origin, made: Made) -> str:
    """The card: YAML front matter, then what people want to know. It names no path of this machine."""
    sections = [
        ("", _about(spec, origin, made)),
        ("How to draw", _drawing(spec, made)),
        ("Files", _files(made)),
        ("What it was trained on", _data(origin)),
        ("How it was trained", _training(origin)),
        ("Measured", _measured(origin)),
        ("Intended use", _USE + "\n"),
        ("Limits", _LIMITS + "\n"),
        ("Terms", _terms(origin)),
    ]
    body = "\n".join(f"## {head}\n\n{text}" if head else text for head, text in sections)
    return f"---\n{_front_matter(spec, origin)}---\n\n# {_title(spec, origin)}\n\n{body}"


def _title(spec: NetSpec, origin: Origin) -> str:
    of = origin.known.title if origin.known else "faces"
    return f"{text(_method(spec, origin))} on {of}, {spec.size} × {spec.size}"


def _method(spec: NetSpec, origin: Origin) -> str:
    return str(_settings(origin).get("method") or spec.name)


def _settings(origin: Origin) -> dict[str, Any]:
    told = origin.record.get("settings")
    return told if isinstance(told, dict) else {}


def _front_matter(spec: NetSpec, origin: Origin) -> str:
    known = origin.known
    lines = [f"license: {known.licence if known else 'unknown'}"]
    if known and known.licence_name:
        lines.append(f"license_name: {known.licence_name}")
    lines += [LIBRARY, "pipeline_tag: unconditional-image-generation"]
    tags = ["gan", "facegan", _method(spec, origin), "image-generation", "faces", "pytorch"]
    lines += ["tags:", *(f"- {json.dumps(plain(tag), ensure_ascii=False)}" for tag in dict.fromkeys(tags))]
    if known:
        lines += ["datasets:", f"- {known.name}"]
    if metrics := _metrics(origin):
        lines += ["metrics:", *(f"- {json.dumps(plain(name), ensure_ascii=False)}" for name in metrics)]
        lines += _model_index(spec, origin, metrics)
    return "\n".join(lines) + "\n"


def _model_index(spec: NetSpec, origin: Origin, metrics: Mapping[str, float]) -> list[str]:
    """https://github.com/huggingface/hub-docs/blob/main/modelcard.md: one result, of the one split."""
    name, title = (origin.known.name, origin.known.title) if origin.known else ("faces", "faces")
    protocol = origin.evaluation.get("protocol")
    split = protocol.get("split") if isinstance(protocol, dict) else None
    lines = [
        "model-index:",
        f"- name: {json.dumps(plain(f'facegan {_method(spec, origin)}'), ensure_ascii=False)}",
        "  results:",
    ]
    lines += ["  - task:", "      type: unconditional-image-generation", "    dataset:"]
    lines += [f"      type: {name}", f"      name: {json.dumps(title)}"]
    if isinstance(split, str):
        lines.append(f"      split: {json.dumps(plain(split), ensure_ascii=False)}")
    lines.append("    metrics:")
    for metric, value in metrics.items():
        lines += [f"    - type: {json.dumps(plain(metric), ensure_ascii=False)}", f"      value: {value:.6g}"]
    return lines


def _metrics(origin: Origin) -> dict[str, float]:
    """Those that are numbers; a file of others may hold anything."""
    told = origin.evaluation.get("metrics")
    numbers = {name: _finite(value) for name, value in told.items()} if isinstance(told, dict) else {}
    return {name: value for name, value in numbers.items() if value is not None}


def _finite(value: Any) -> float | None:
    if isinstance(value, int | float):
        with suppress(OverflowError):  # an integer of hundreds of digits
            return float(value) if math.isfinite(value) else None
    return None


def _about(spec: NetSpec, origin: Origin, made: Made) -> str:
    colours = "grey pictures" if spec.channels == 1 else "pictures in colours"
    images = f", trained with {origin.images:,} images" if origin.images else ""
    return (
        f"A generator ({code(spec.name)}) that draws {colours} of {spec.size} × {spec.size} pixels from "
        f"{spec.latent} random numbers each{images}.\nWritten by facegan {__version__}.\n\n"
        f"![{made.samples} samples]({PICTURE_NAME})\n\n*Generated: nobody is on these pictures. They are the first "
        f"{made.samples} of a seed, and not chosen.*\n"
    )


def _drawing(spec: NetSpec, made: Made) -> str:
    blocks = []
    if made.no_graph:
        blocks.append(f"Without facegan it is drawn by one of the other files: {text(made.no_graph)}.")
    else:
        blocks.append(f"With torch and safetensors alone, in this folder:\n\n{_python(torch_snippet(spec))}")
    blocks += [
        f"With onnxruntime alone, by `{name}`:\n\n{_python(onnx_snippet(spec, name))}"
        for name in list(made.differences)[:1]
    ]
    if PROGRAM_NAME in made.files:
        blocks.append(
            f"By the torch.export program:\n\n{_python(program_snippet(spec))}\n"
            "It holds no pickle; but `torch.export.load` would run what somebody else pickled into such a file, so "
            "load only one\nwhose SHA-256 is that of `config.json`."
        )
    blocks.append(
        'With facegan: `facegan.load_generator("generator.safetensors")`. However it is drawn, `(images + 1) * 127.5` '
        "rounded is\nwhat a picture's 8 bits are."
    )
    return "\n\n".join(blocks) + "\n"


def _files(made: Made) -> str:
    rows = []
    for name, size in made.files.items():
        apart = made.differences.get(name)
        told = f"{apart.mean_greys:.2g}, at most {apart.largest_greys:.2g}" if apart else ""
        rows.append((f"`{name}`", _MEANINGS.get(name, ""), human_bytes(size), told))
    if not made.differences:
        return table(["file", "what it is", "size"], (row[:3] for row in rows))
    samples = next(iter(made.differences.values())).samples
    return table(["file", "what it is", "size", "apart from PyTorch"], rows) + (
        f"\nApart: the mean and the largest difference of a pixel in grey levels (of 255), over {samples} samples, by "
        "onnxruntime\non a CPU.\n"
    )


def _data(origin: Origin) -> str:
    told = origin.record.get("dataset")
    told = told if isinstance(told, dict) else {}
    lines = []
    if isinstance(told.get("faces"), int):
        size = text(told.get("size"))
        lines.append(f"{told['faces']:,} faces of {size} × {size} pixels.")
    if (info := origin.dataset) is not None:
        totals = info.totals
        of = f" of {origin.known.title}" if origin.known else ""
        lines.append(
            f"facegan prep kept {totals.kept:,} of {totals.photos:,} photographs{of}: crop "
            f"{code(info.settings.get('crop'))}, detector {code(info.settings.get('detector'))}, split "
            f"{code(info.settings.get('split'))}. Its fingerprint is {code(info.fingerprint)}."
        )
    else:
        lines.append("Nothing more is known of them here.")
    return "\n".join(lines) + "\n"


def _training(origin: Origin) -> str:
    settings = _settings(origin)
    if not settings:
        return "Its run's record was not beside it when it was exported.\n"
    fields = TrainConfig.model_fields
    rows = (
        (code(name), code(value), (fields[name].description or "") if name in fields else "")
        for name, value in settings.items()
    )
    told = {name: origin.record.get(name) for name in ("precision", "parameters", "versions")}
    parameters, versions = told["parameters"], told["versions"]
    lines = [f"Computed in {text(told['precision'])}."]
    if isinstance(parameters, dict):
        lines.append(" ".join(f"{text(net)}: {_count(count)} parameters." for net, count in parameters.items()))
    if isinstance(versions, dict):
        lines.append("Versions: " + ", ".join(text(f"{name} {version}") for name, version in versions.items()) + ".")
    return "\n".join(lines) + "\n\n" + table(["setting", "value", "meaning"], rows)


def _measured(origin: Origin) -> str:
    metrics, told = _metrics(origin), origin.evaluation
    if not metrics:
        return "Nothing was measured of this generator (`facegan eval` does).\n"
    floors = told.get("floors") if isinstance(told.get("floors"), dict) else {}
    rows = ((code(name), f"{value:.4g}", _number((floors or {}).get(name))) for name, value in metrics.items())
    page = table(["metric", "value", "real faces among themselves"], rows)
    warnings = told.get("warnings")
    if isinstance(warnings, list) and warnings:
        page += "\n" + "".join(f"- {text(warning)}\n" for warning in warnings)
    protocol = told.get("protocol")
    if isinstance(protocol, dict) and protocol:
        page += "\n" + table(["protocol", ""], ((code(name), code(value)) for name, value in protocol.items()))
    return page


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else text(value)


def _number(value: Any) -> str:
    number = _finite(value)
    return "" if number is None else f"{number:.4g}"


def _terms(origin: Origin) -> str:
    if origin.known is None:
        return f"{_TERMS}\n\n{_NO_TERMS}\n"
    known = origin.known
    return f"{_TERMS}\n\n**{known.title}**: {known.terms}\n\n```bibtex\n{known.citation}\n```\n"


def _python(text: str) -> str:
    return f"```python\n{text}```"
