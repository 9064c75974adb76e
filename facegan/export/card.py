"""README.md: the model card, with the YAML front matter that Hugging Face's hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from facegan import __version__
from facegan.config import LatentDistribution, TrainConfig
from facegan.export.onnx import OPSET, Deviation
from facegan.export.provenance import Provenance
from facegan.export.torch_export import FILE_NAME as PROGRAM_NAME
from facegan.files import human_bytes
from facegan.nets import NetSpec
from facegan.plugins import is_import_path
from facegan.shards.cards import code, markdown_table, markdown_text, text

# Lines of Python that draw with an exported generator, and need no facegan: printed in the card, run by a test.

# How a latent is drawn.
_TORCH_DRAWS: dict[LatentDistribution, str] = {
    "normal": "torch.randn({shape})",
    "uniform": "torch.rand({shape}) * 2 - 1",
    "uniform01": "torch.rand({shape})",
    "sphere": "torch.nn.functional.normalize(torch.randn({shape})) * {length} ** 0.5",
}
_NUMPY_DRAWS: dict[LatentDistribution, str] = {
    "normal": "numpy.random.randn({shape})",
    "uniform": "numpy.random.rand({shape}) * 2 - 1",
    "uniform01": "numpy.random.rand({shape})",
    "sphere": "numpy.random.randn({shape})\n"
    "latents *= {length} ** 0.5 / numpy.linalg.norm(latents, axis=1, keepdims=True)",
}

_TORCH = """\
import json, operator, torch
from functools import reduce
from safetensors.torch import load_file

graph, values = json.load(open("config.json"))["graph"], load_file("generator.safetensors")
values |= {{name: torch.tensor(value) for name, value in graph["constants"].items()}}
values["latents"] = {draw}
def named(path, roots={{"aten": torch.ops.aten, "operator": operator, "torch": torch}}):
    return reduce(getattr, path.split(".")[1:], roots[path.split(".")[0]])
def filled(x):
    if isinstance(x, list): return [filled(part) for part in x]
    return x if not isinstance(x, str) or x[:1] not in "%!" else values[x[1:]] if x[0] == "%" else named(x[1:])
for name, operation, arguments, more in graph["steps"]:
    values[name] = named(operation)(*filled(arguments), **{{key: filled(x) for key, x in more.items()}})
images = values[graph["output"]]  # {images}
"""

_ONNX = """\
import numpy, onnxruntime

latents = {draw}
(images,) = onnxruntime.InferenceSession("{file}").run(None, {{"latents": latents.astype("float32")}})
# images is {images}
"""

_PROGRAM = """\
import torch

generator = torch.export.load("generator.pt2").module()
images = generator({draw})  # {images}
"""


def torch_snippet(spec: NetSpec, count: int = 16) -> str:
    """By torch and safetensors, in the exported folder: at most 15 lines; ``images`` is (count, C, H, W)."""
    draw = _TORCH_DRAWS[spec.law].format(shape=f"{count}, {spec.latent}", length=spec.latent)
    return _TORCH.format(draw=draw, images=_shape(spec, count))


def onnx_snippet(spec: NetSpec, file: str, count: int = 16) -> str:
    """By onnxruntime alone."""
    draw = _NUMPY_DRAWS[spec.law].format(shape=f"{count}, {spec.latent}", length=spec.latent)
    return _ONNX.format(draw=draw, file=file, images=_shape(spec, count))


def program_snippet(spec: NetSpec, count: int = 16) -> str:
    """By torch alone."""
    draw = _TORCH_DRAWS[spec.law].format(shape=f"{count}, {spec.latent}", length=spec.latent)
    return _PROGRAM.format(draw=draw, images=_shape(spec, count))


def _shape(spec: NetSpec, count: int) -> str:
    return f"({count}, {spec.channels}, {spec.size}, {spec.size}), in −1 … 1"


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
class CardFacts:
    """What was exported: sizes of files by name, how far ONNX files are from PyTorch, why there is no graph."""

    files: Mapping[str, int]
    differences: Mapping[str, Deviation]
    no_graph: str
    samples: int


def card(spec: NetSpec, origin: Provenance, made: CardFacts) -> str:
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


def _title(spec: NetSpec, origin: Provenance) -> str:
    of = origin.known.title if origin.known else "faces"
    return f"{text(_method(spec, origin))} on {of}, {spec.size} × {spec.size}"


def _method(spec: NetSpec, origin: Provenance) -> str:
    return str(_settings(origin).get("method") or spec.name)


def _settings(origin: Provenance) -> dict[str, Any]:
    return origin.record.settings if origin.record else {}


def _front_matter(spec: NetSpec, origin: Provenance) -> str:
    known = origin.known
    lines = [f"license: {known.licence if known else 'unknown'}"]
    if known and known.licence_name:
        lines.append(f"license_name: {known.licence_name}")
    lines += [LIBRARY, "pipeline_tag: unconditional-image-generation"]
    tags = ["gan", "facegan", _method(spec, origin), "image-generation", "faces", "pytorch"]
    lines += ["tags:", *(f"- {json.dumps(markdown_text(tag), ensure_ascii=False)}" for tag in dict.fromkeys(tags))]
    if known:
        lines += ["datasets:", f"- {known.name}"]
    if metrics := _metrics(origin):
        lines += ["metrics:", *(f"- {json.dumps(markdown_text(name), ensure_ascii=False)}" for name in metrics)]
        lines += _model_index(spec, origin, metrics)
    return "\n".join(lines) + "\n"


def _model_index(spec: NetSpec, origin: Provenance, metrics: Mapping[str, float]) -> list[str]:
    """https://github.com/huggingface/hub-docs/blob/main/modelcard.md: one result, of the one split."""
    name, title = (origin.known.name, origin.known.title) if origin.known else ("faces", "faces")
    split = origin.evaluation.protocol.get("split") if origin.evaluation else None
    lines = [
        "model-index:",
        f"- name: {json.dumps(markdown_text(f'facegan {_method(spec, origin)}'), ensure_ascii=False)}",
        "  results:",
    ]
    lines += ["  - task:", "      type: unconditional-image-generation", "    dataset:"]
    lines += [f"      type: {name}", f"      name: {json.dumps(title)}"]
    if isinstance(split, str):
        lines.append(f"      split: {json.dumps(markdown_text(split), ensure_ascii=False)}")
    lines.append("    metrics:")
    for metric, value in metrics.items():
        lines += [f"    - type: {json.dumps(markdown_text(metric), ensure_ascii=False)}", f"      value: {value:.6g}"]
    return lines


def _metrics(origin: Provenance) -> dict[str, float]:
    return origin.evaluation.metrics if origin.evaluation else {}


def _about(spec: NetSpec, origin: Provenance, made: CardFacts) -> str:
    colours = "grey pictures" if spec.channels == 1 else "pictures in colours"
    images = f", trained with {origin.images:,} images" if origin.images else ""
    return (
        f"A generator ({code(spec.name)}) that draws {colours} of {spec.size} × {spec.size} pixels from "
        f"{spec.latent} random numbers each{images}.\nWritten by facegan {__version__}.\n\n"
        f"![{made.samples} samples]({PICTURE_NAME})\n\n*Generated: nobody is on these pictures. They are the first "
        f"{made.samples} of a seed, and not chosen.*\n"
    )


def _drawing(spec: NetSpec, made: CardFacts) -> str:
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
    trust = ", trust_code=True" if is_import_path(spec.name) else ""
    blocks.append(
        f'With facegan: `facegan.load_generator("generator.safetensors"{trust})`. However it is drawn, '
        "`(images + 1) * 127.5` rounded is\nwhat a picture's 8 bits are."
    )
    return "\n\n".join(blocks) + "\n"


def _files(made: CardFacts) -> str:
    rows = []
    for name, size in made.files.items():
        apart = made.differences.get(name)
        told = f"{apart.mean_greys:.2g}, at most {apart.largest_greys:.2g}" if apart else ""
        rows.append((f"`{name}`", _MEANINGS.get(name, ""), human_bytes(size), told))
    if not made.differences:
        return markdown_table(["file", "what it is", "size"], (row[:3] for row in rows))
    samples = next(iter(made.differences.values())).samples
    return markdown_table(["file", "what it is", "size", "apart from PyTorch"], rows) + (
        f"\nApart: the mean and the largest difference of a pixel in grey levels (of 255), over {samples} samples, by "
        "onnxruntime\non a CPU.\n"
    )


def _data(origin: Provenance) -> str:
    lines, facts = [], origin.record.dataset if origin.record else None
    if facts and facts.faces is not None and facts.size is not None:
        lines.append(f"{facts.faces:,} faces of {facts.size} × {facts.size} pixels.")
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


def _training(origin: Provenance) -> str:
    settings, facts = _settings(origin), origin.record
    if not settings or not facts:
        return "Its run's record was not beside it when it was exported.\n"
    fields = TrainConfig.model_fields
    rows = (
        (code(name), code(value), (fields[name].description or "") if name in fields else "")
        for name, value in settings.items()
    )
    lines = []
    if facts.precision:
        lines.append(f"Computed in {text(facts.precision)}.")
    if facts.parameters:
        lines.append(" ".join(f"{text(net)}: {count:,} parameters." for net, count in facts.parameters.items()))
    if facts.versions:
        lines.append(
            "Versions: " + ", ".join(text(f"{name} {version}") for name, version in facts.versions.items()) + "."
        )
    return "\n".join(lines) + "\n\n" + markdown_table(["setting", "value", "meaning"], rows)


def _measured(origin: Provenance) -> str:
    found = origin.evaluation
    if not found or not found.metrics:
        return "Nothing was measured of this generator (`facegan eval` does).\n"
    floors = {name: f"{value:.4g}" for name, value in found.floors.items()}
    rows = ((code(name), f"{value:.4g}", floors.get(name, "")) for name, value in found.metrics.items())
    page = markdown_table(["metric", "value", "real faces among themselves"], rows)
    if found.warnings:
        page += "\n" + "".join(f"- {text(warning)}\n" for warning in found.warnings)
    if found.protocol:
        page += "\n" + markdown_table(
            ["protocol", ""], ((code(name), code(value)) for name, value in found.protocol.items())
        )
    return page


def _terms(origin: Provenance) -> str:
    if origin.known is None:
        return f"{_TERMS}\n\n{_NO_TERMS}\n"
    known = origin.known
    return f"{_TERMS}\n\n**{known.title}**: {known.terms}\n\n```bibtex\n{known.citation}\n```\n"


def _python(text: str) -> str:
    return f"```python\n{text}```"
