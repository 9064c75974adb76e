"""README.md: the model card, with the YAML front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from facegan import __version__
from facegan.config import LatentDistribution, TrainConfig
from facegan.export.onnx import OPSET, Deviation
from facegan.export.provenance import Provenance
from facegan.export.torch_export import FILE_NAME as PROGRAM_NAME
from facegan.files import human_bytes
from facegan.nets import NetSpec
from facegan.plugins import is_import_path
from facegan.shards.cards import code, markdown_table, markdown_text, text

FILE_NAME, PICTURE_NAME = "README.md", "samples.png"
LIBRARY = "library_name: facegan"  # the line of the front matter by which our cards are recognized
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
_DESCRIPTIONS = {
    "generator.safetensors": "the weights: the moving average of the generator",
    "config.json": "latents and images, the net's settings, checksums of the other files",
    "generator.pt2": "a torch.export program",
    "generator.onnx": f"ONNX, opset {OPSET}, float32",
    "generator-fp16.onnx": "ONNX in float16 (latents and images stay float32)",
    "generator-int8.onnx": "ONNX with 8-bit weights and activations (latents and images stay float32)",
    "samples.png": "samples, not selected",
}
_USE = """\
Made to study how such networks learn and what they draw, to teach it, and to compare methods. It draws small pictures \
like those it was trained on.

Do not use it to make anyone believe that a person exists or did something, for pictures of real people, or to judge \
people. State that its pictures are generated.
"""
_LIMITS = """\
- It cannot draw what its training photographs lack, and it repeats their bias (in age, skin, pose, light).
- A generator can reproduce faces that it was trained on, especially if it was trained on few. A face is personal \
data: whoever distributes this model must be allowed to, and must withdraw it if a person in its photographs asks.
- Its pictures are small and some are broken. Metrics hold only for their protocol.
"""
_TERMS = """\
The code that drew this, facegan, is under Apache-2.0. That does not cover the weights: they are made from \
photographs, and the terms of the photographs may apply to them."""
_NO_TERMS = """\
facegan does not know where the photographs come from, so it cannot state their terms. Whoever distributes this model \
must know them and state them here."""


def onnx_snippet(spec: NetSpec, file: str, count: int = 16) -> str:
    """Python that draws ``count`` images with onnxruntime alone."""
    draw = _NUMPY_DRAWS[spec.law].format(shape=f"{count}, {spec.latent}", length=spec.latent)
    return _ONNX.format(draw=draw, file=file, images=_shape(spec, count))


def program_snippet(spec: NetSpec, count: int = 16) -> str:
    """Python that draws ``count`` images with torch alone."""
    draw = _TORCH_DRAWS[spec.law].format(shape=f"{count}, {spec.latent}", length=spec.latent)
    return _PROGRAM.format(draw=draw, images=_shape(spec, count))


def _shape(spec: NetSpec, count: int) -> str:
    return f"({count}, {spec.channels}, {spec.size}, {spec.size}), in −1 … 1"


@dataclass(frozen=True)
class CardFacts:
    """What was exported: sizes of the files by name, and how far the ONNX files are from PyTorch."""

    files: Mapping[str, int]
    differences: Mapping[str, Deviation]
    samples: int


def card(spec: NetSpec, provenance: Provenance, exported: CardFacts) -> str:
    """The whole card. It contains no path of this machine."""
    known = provenance.known
    settings = provenance.record.settings if provenance.record else {}
    method = str(settings.get("method") or spec.name)
    title = f"{text(method)} on {known.title if known else 'faces'}, {spec.size} × {spec.size}"
    sections = {
        "How to draw": _drawing(spec, exported),
        "Files": _files(exported),
        "What it was trained on": _data(provenance),
        "How it was trained": _training(provenance),
        "Measured": _measured(provenance),
        "Intended use": _USE,
        "Limits": _LIMITS,
        "Terms": _terms(provenance),
    }
    body = "\n".join([_about(spec, provenance, exported), *(f"## {head}\n\n{it}" for head, it in sections.items())])
    return f"---\n{_front_matter(method, provenance)}---\n\n# {title}\n\n{body}"


def _front_matter(method: str, provenance: Provenance) -> str:
    known, metrics = provenance.known, provenance.evaluation.metrics if provenance.evaluation else {}
    lines = [f"license: {known.licence if known else 'unknown'}"]
    if known and known.licence_name:
        lines.append(f"license_name: {known.licence_name}")
    lines += [LIBRARY, "pipeline_tag: unconditional-image-generation"]
    tags = dict.fromkeys(["gan", "facegan", method, "image-generation", "faces", "pytorch"])
    lines += ["tags:", *(f"- {_quoted(tag)}" for tag in tags)]
    if known:
        lines += ["datasets:", f"- {known.name}"]
    if metrics:
        lines += ["metrics:", *(f"- {_quoted(name)}" for name in metrics)]
        lines += _model_index(method, provenance, metrics)
    return "\n".join(lines) + "\n"


def _model_index(method: str, provenance: Provenance, metrics: Mapping[str, float]) -> list[str]:
    """One result for one split. https://github.com/huggingface/hub-docs/blob/main/modelcard.md"""
    name, title = (provenance.known.name, provenance.known.title) if provenance.known else ("faces", "faces")
    split = provenance.evaluation.protocol.get("split") if provenance.evaluation else None
    lines = ["model-index:", f"- name: {_quoted(f'facegan {method}')}", "  results:"]
    lines += ["  - task:", "      type: unconditional-image-generation", "    dataset:"]
    lines += [f"      type: {name}", f"      name: {json.dumps(title)}"]
    if isinstance(split, str):
        lines.append(f"      split: {_quoted(split)}")
    lines.append("    metrics:")
    for metric, value in metrics.items():
        lines += [f"    - type: {_quoted(metric)}", f"      value: {value:.6g}"]
    return lines


def _quoted(value: str) -> str:
    return json.dumps(markdown_text(value), ensure_ascii=False)


def _about(spec: NetSpec, provenance: Provenance, exported: CardFacts) -> str:
    colours = "grey" if spec.channels == 1 else "colour"
    images = f", trained with {provenance.images:,} images" if provenance.images else ""
    return (
        f"A generator ({code(spec.name)}) that draws {colours} pictures of {spec.size} × {spec.size} pixels from "
        f"{spec.latent} random numbers each{images}.\nWritten by facegan {__version__}.\n\n"
        f"![{exported.samples} samples]({PICTURE_NAME})\n\n*Generated: these people do not exist. The first "
        f"{exported.samples} samples of a seed, not selected.*\n"
    )


def _drawing(spec: NetSpec, exported: CardFacts) -> str:
    blocks = [
        f"With onnxruntime alone, from `{name}`:\n\n```python\n{onnx_snippet(spec, name)}```"
        for name in list(exported.differences)[:1]
    ]
    if PROGRAM_NAME in exported.files:
        blocks.append(
            f"With torch alone, from `{PROGRAM_NAME}`:\n\n```python\n{program_snippet(spec)}```\n\n"
            "This file contains no pickle. But `torch.export.load` unpickles what others put into such a file, so load "
            "it only\nif its SHA-256 is that in `config.json`."
        )
    trust = ", trust_code=True" if is_import_path(spec.name) else ""
    blocks.append(
        f'With facegan: `facegan.load_generator("generator.safetensors"{trust})`.\n\n'
        "In every case, `(images + 1) * 127.5`, rounded, gives 8-bit pixels."
    )
    return "\n\n".join(blocks) + "\n"


def _files(exported: CardFacts) -> str:
    differences = exported.differences
    rows = (
        (f"`{name}`", _DESCRIPTIONS.get(name, ""), human_bytes(size), str(differences.get(name, "")))
        for name, size in exported.files.items()
    )
    head = ["file", "content", "size", "difference from PyTorch"]
    if not differences:
        return markdown_table(head[:3], (row[:3] for row in rows))
    samples = next(iter(differences.values())).samples
    return markdown_table(head, rows) + (
        f"\nThe mean and the largest difference of a pixel in grey levels (of 255), over {samples} samples, with "
        "onnxruntime\non a CPU.\n"
    )


def _data(provenance: Provenance) -> str:
    lines, facts = [], provenance.record.dataset if provenance.record else None
    if facts and facts.faces is not None and facts.size is not None:
        lines.append(f"{facts.faces:,} faces of {facts.size} × {facts.size} pixels.")
    if (info := provenance.dataset) is not None:
        totals = info.totals
        of = f" of {provenance.known.title}" if provenance.known else ""
        lines.append(
            f"facegan prep kept {totals.kept:,} of {totals.photos:,} photographs{of}: crop "
            f"{code(info.settings.get('crop'))}, detector {code(info.settings.get('detector'))}, split "
            f"{code(info.settings.get('split'))}. Its fingerprint is {code(info.fingerprint)}."
        )
    else:
        lines.append("The dataset was not available when this card was written.")
    return "\n".join(lines) + "\n"


def _training(provenance: Provenance) -> str:
    facts = provenance.record
    if not facts or not facts.settings:
        return "The run's record was not available when it was exported.\n"
    fields = TrainConfig.model_fields
    rows = (
        (code(name), code(value), (fields[name].description or "") if name in fields else "")
        for name, value in facts.settings.items()
    )
    lines = [f"Computed in {text(facts.precision)}."] if facts.precision else []
    if facts.parameters:
        lines.append(" ".join(f"{text(net)}: {count:,} parameters." for net, count in facts.parameters.items()))
    if facts.versions:
        versions = ", ".join(text(f"{name} {version}") for name, version in facts.versions.items())
        lines.append(f"Versions: {versions}.")
    return "\n".join(lines) + "\n\n" + markdown_table(["setting", "value", "meaning"], rows)


def _measured(provenance: Provenance) -> str:
    found = provenance.evaluation
    if not found or not found.metrics:
        return "This generator was not evaluated (`facegan eval` does it).\n"
    real = {name: f"{value:.4g}" for name, value in found.floors.items()}
    rows = ((code(name), f"{value:.4g}", real.get(name, "")) for name, value in found.metrics.items())
    section = markdown_table(["metric", "value", "real faces against real faces"], rows)
    if found.warnings:
        section += "\n" + "".join(f"- {text(warning)}\n" for warning in found.warnings)
    if found.protocol:
        rows = ((code(name), code(value)) for name, value in found.protocol.items())
        section += "\n" + markdown_table(["protocol", ""], rows)
    return section


def _terms(provenance: Provenance) -> str:
    known = provenance.known
    if known is None:
        return f"{_TERMS}\n\n{_NO_TERMS}\n"
    return f"{_TERMS}\n\n**{known.title}**: {known.terms}\n\n```bibtex\n{known.citation}\n```\n"
