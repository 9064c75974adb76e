"""README.md: the model card, with the YAML front matter that the Hugging Face Hub reads; and where its facts are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from facegan import __version__, run_dir
from facegan.config import LatentDistribution, TrainConfig
from facegan.errors import CheckpointError, DatasetError
from facegan.export.onnx import OPSET, Deviation
from facegan.export.torch_export import FILE_NAME as PROGRAM_NAME
from facegan.files import human_bytes, sha256_file
from facegan.manifests import KnownDataset, known_datasets
from facegan.nets import NetSpec
from facegan.nets.weights import FILE_NAME as WEIGHTS_NAME
from facegan.plugins import is_import_path
from facegan.remote import is_url
from facegan.shards.cards import code, markdown_table, markdown_text, text
from facegan.shards.format import DatasetInfo

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
must know them and state them here.
"""


def program_snippet(spec: NetSpec, count: int = 16) -> str:
    """Python that draws ``count`` images with torch alone."""
    return _snippet(_PROGRAM, _TORCH_DRAWS, spec, count)


def _snippet(lines: str, draws: dict[LatentDistribution, str], spec: NetSpec, count: int = 16, file: str = "") -> str:
    draw = draws[spec.law].format(shape=f"{count}, {spec.latent}", length=spec.latent)
    images = f"({count}, {spec.channels}, {spec.size}, {spec.size}), in −1 … 1"
    return lines.format(draw=draw, images=images, file=file)


@dataclass(frozen=True)
class Provenance:
    """Where a generator comes from: the run that trained it, its dataset and its evaluation; None: not available."""

    file: Path
    record: run_dir.RunFacts | None
    images: int | None  # real images that it was trained with
    dataset: DatasetInfo | None = None
    known: KnownDataset | None = None  # the public data set that the photographs belong to
    evaluation: run_dir.Evaluation | None = None  # only if it measured this very generator
    missing: tuple[str, ...] = ()  # a sentence for each fact that could not be found


def find_provenance(path: Path) -> Provenance:
    """Of a run, one of its checkpoints, or a generator's file; raises CheckpointError if there is no generator."""
    file = path / WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        hint = "A run writes it with its first checkpoint." if path.is_dir() else "Name a run or a .safetensors file."
        raise CheckpointError(f"There is no {file}. {hint}")
    folder = file.parent
    is_checkpoint = (folder / run_dir.STATE).is_file()
    run = folder.parent.parent if is_checkpoint else folder
    images = (
        run_dir.read_facts(folder / run_dir.STATE).get("images") if is_checkpoint else run_dir.newest_images(folder)
    )
    record, dataset, missing = run_dir.read_run(run), None, list[str]()
    if record:
        dataset = _dataset(record.dataset, missing)
    else:
        why = (
            f"{run / run_dir.RECORD} cannot be read"
            if (run / run_dir.RECORD).exists()
            else f"{file} is not in a run's folder"
        )
        missing.append(f"{why}: the card will not say how it was trained, or on what.")
    known = known_datasets().get(dataset.data_set) if dataset else None
    evaluation = run_dir.read_evaluation(folder) or run_dir.read_evaluation(run)
    if not evaluation:
        missing.append("There is no eval.json: the card has no metrics. Run facegan eval first to add them.")
    elif evaluation.measured.get("generator_sha256") not in (None, sha256_file(file)):
        missing.append("eval.json measured another generator of this run. Run facegan eval again.")
        evaluation = None
    return Provenance(file, record, run_dir.count_of(images), dataset, known, evaluation, tuple(missing))


def _dataset(facts: run_dir.DatasetFacts, missing: list[str]) -> DatasetInfo | None:
    why, info = "is not on this machine", None
    if facts.path and not is_url(facts.path):
        try:
            info = DatasetInfo.read(Path(facts.path))
        except (DatasetError, OSError, ValueError) as error:  # ValueError: an impossible path
            why = f"cannot be read ({str(error).splitlines()[0]})"
    if info is None:
        missing.append(f"The run's dataset {why}: the card will not name the photographs' terms.")
    elif facts.faces not in {sum(shard.samples for shard in info.split_shards(split)) for split in info.splits}:
        missing.append(f"{facts.path} has changed since the run was trained: the card describes it as it is now.")
    return info


@dataclass(frozen=True)
class CardFacts:
    """What was exported: sizes of the files by name, and how far the ONNX files are from PyTorch."""

    files: Mapping[str, int]
    differences: Mapping[str, Deviation]
    samples: int


def card(spec: NetSpec, provenance: Provenance, exported: CardFacts) -> str:
    """The whole card. It contains no path of this machine."""
    known, record = provenance.known, provenance.record
    method = str((record and record.settings.get("method")) or spec.name)
    sections = {
        "How to draw": _drawing(spec, exported),
        "Files": _files(exported),
        "What it was trained on": _data(provenance),
        "How it was trained": _training(record),
        "Measured": _measured(provenance.evaluation),
        "Intended use": _USE,
        "Limits": _LIMITS,
        "Terms": f"{_TERMS}\n\n{_terms_of(known) if known else _NO_TERMS}",
    }
    body = "\n".join([_about(spec, provenance, exported), *(f"## {head}\n\n{it}" for head, it in sections.items())])
    title = f"{text(method)} on {known.title if known else 'faces'}, {spec.size} × {spec.size}"
    return f"---\n{_front_matter(method, known, provenance.evaluation)}---\n\n# {title}\n\n{body}"


def _front_matter(method: str, known: KnownDataset | None, evaluation: run_dir.Evaluation | None) -> str:
    """With one result for one split. https://github.com/huggingface/hub-docs/blob/main/modelcard.md"""
    lines = [f"license: {known.licence if known else 'unknown'}"]
    lines += [f"license_name: {known.licence_name}"] if known and known.licence_name else []
    lines += [LIBRARY, "pipeline_tag: unconditional-image-generation", "tags:"]
    tags = dict.fromkeys(["gan", "facegan", method, "image-generation", "faces", "pytorch"])
    lines += [f"- {_quoted(tag)}" for tag in tags]
    lines += ["datasets:", f"- {known.name}"] if known else []
    if evaluation and evaluation.metrics:
        name, title = (known.name, known.title) if known else ("faces", "faces")
        split = evaluation.protocol.get("split")
        lines += ["metrics:", *(f"- {_quoted(metric)}" for metric in evaluation.metrics)]
        lines += ["model-index:", f"- name: {_quoted(f'facegan {method}')}", "  results:"]
        lines += ["  - task:", "      type: unconditional-image-generation", "    dataset:"]
        lines += [f"      type: {name}", f"      name: {json.dumps(title)}"]
        lines += [f"      split: {_quoted(split)}"] if isinstance(split, str) else []
        lines.append("    metrics:")
        for metric, value in evaluation.metrics.items():
            lines += [f"    - type: {_quoted(metric)}", f"      value: {value:.6g}"]
    return "\n".join(lines) + "\n"


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
    blocks = []
    if exported.differences:
        name = next(iter(exported.differences))
        snippet = _snippet(_ONNX, _NUMPY_DRAWS, spec, file=name)
        blocks.append(f"With onnxruntime alone, from `{name}`:\n\n```python\n{snippet}```")
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
    lines, facts, info = [], provenance.record and provenance.record.dataset, provenance.dataset
    if facts and facts.faces is not None and facts.size is not None:
        lines.append(f"{facts.faces:,} faces of {facts.size} × {facts.size} pixels.")
    if info is None:
        lines.append("The dataset was not available when this card was written.")
    else:
        of = f" of {provenance.known.title}" if provenance.known else ""
        lines.append(
            f"facegan prep kept {info.totals.kept:,} of {info.totals.photos:,} photographs{of}: crop "
            f"{code(info.settings.get('crop'))}, detector {code(info.settings.get('detector'))}, split "
            f"{code(info.settings.get('split'))}. Its fingerprint is {code(info.fingerprint)}."
        )
    return "\n".join(lines) + "\n"


def _training(facts: run_dir.RunFacts | None) -> str:
    if not facts or not facts.settings:
        return "The run's record was not available when it was exported.\n"
    fields = TrainConfig.model_fields
    meanings = {name: fields[name].description or "" for name in facts.settings if name in fields}
    rows = ((code(name), code(value), meanings.get(name, "")) for name, value in facts.settings.items())
    lines = [f"Computed in {text(facts.precision)}."] if facts.precision else []
    if facts.parameters:
        lines.append(" ".join(f"{text(net)}: {count:,} parameters." for net, count in facts.parameters.items()))
    if facts.versions:
        lines.append(f"Versions: {', '.join(text(f'{name} {version}') for name, version in facts.versions.items())}.")
    return "\n".join(lines) + "\n\n" + markdown_table(["setting", "value", "meaning"], rows)


def _measured(found: run_dir.Evaluation | None) -> str:
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


def _terms_of(known: KnownDataset) -> str:
    return f"**{known.title}**: {known.terms}\n\n```bibtex\n{known.citation}\n```\n"
