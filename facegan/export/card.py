"""README.md: the model card, with the YAML front matter that the Hugging Face Hub reads; and where its facts are."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegan import __version__, run_dir
from facegan.config import LatentDistribution, TrainConfig
from facegan.console import shown
from facegan.errors import CheckpointError, DatasetError
from facegan.evaluate.groups import read_audit
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

if TYPE_CHECKING:
    from jinja2 import Template

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
{condition}(images,) = onnxruntime.InferenceSession("{file}").run(None, {{"latents": latents.astype("float32"){more}}})
# images is {images}
"""
_PROGRAM = """\
import torch

generator = torch.export.load("generator.pt2").module()
{condition}images = generator({draw}{more})  # {images}
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


@dataclass(frozen=True)
class _Dialect:
    """How a snippet draws latents, writes conditions and passes them on."""

    lines: str
    draws: dict[LatentDistribution, str]
    rows: str
    one_hot: str
    argument: str


_TORCH = _Dialect(
    _PROGRAM,
    _TORCH_DRAWS,
    "torch.tensor([{values}] * {count}, dtype=torch.float32)",
    "torch.eye({classes})[{values} * {count}]",
    ", condition",
)
_NUMPY = _Dialect(
    _ONNX,
    _NUMPY_DRAWS,
    "numpy.array([{values}] * {count})",
    "numpy.eye({classes})[{values} * {count}]",
    ', "condition": condition.astype("float32")',
)


def program_snippet(spec: NetSpec, count: int = 16) -> str:
    """Python that draws ``count`` images with torch alone."""
    return _snippet(_TORCH, spec, count)


def _snippet(dialect: _Dialect, spec: NetSpec, count: int = 16, file: str = "") -> str:
    draw = dialect.draws[spec.distribution].format(shape=f"{count}, {spec.latent}", length=spec.latent)
    images = f"({count}, {spec.channels}, {spec.size}, {spec.size}), in −1 … 1"
    condition = more = ""
    if spec.condition:
        usual, classes = spec.condition.usual, spec.condition.classes
        code = (dialect.one_hot if classes else dialect.rows).format(
            values=list(usual.values()), count=count, classes=classes
        )
        titles = ", ".join(spec.condition.title(*item) for item in usual.items())
        condition, more = f"condition = {code}  # {shown(titles)}\n", dialect.argument
    return dialect.lines.format(draw=draw, images=images, file=file, condition=condition, more=more)


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
    state, record_file = run_dir.read_facts(folder / run_dir.STATE), run / run_dir.RECORD
    images = state.get("images") if is_checkpoint else run_dir.newest_images(folder)
    record, dataset, missing = run_dir.read_run(run), None, list[str]()
    if record:
        dataset = _dataset(record.dataset, missing)
    else:
        why = f"{record_file} cannot be read" if record_file.exists() else f"{file} is not in a run's folder"
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
    """The whole card, from the template card.md. It contains no path of this machine.

    https://github.com/huggingface/hub-docs/blob/main/modelcard.md
    """
    record, evaluation = provenance.record, provenance.evaluation
    audit = read_audit(evaluation.groups) if evaluation else None
    method = str((record and record.settings.get("method")) or spec.name)
    return _template().render(
        spec=spec,
        method=method,
        tags=dict.fromkeys(["gan", "facegan", method, "image-generation", "faces", "pytorch"]),
        exported=exported,
        known=provenance.known,
        images=provenance.images,
        record=record,
        info=provenance.dataset,
        evaluation=evaluation,
        metrics=evaluation.metrics if evaluation else {},
        onnx_snippet=_snippet(_NUMPY, spec, file=next(iter(exported.differences), "")),
        program_snippet=program_snippet(spec),
        option=_option(spec),
        needs_trust=is_import_path(spec.name),
        files=_files(exported),
        training=_training(record) if record else "",
        balance=run_dir.balance_of(record.settings) if record else "",
        measured=_metrics(evaluation) if evaluation else "",
        missed=audit.sentences if audit else [],
        protocol=markdown_table(["protocol", ""], _codes(evaluation.protocol)) if evaluation else "",
    )


def _option(spec: NetSpec) -> str:
    if not spec.condition:
        return ""
    name, value = next(iter(spec.condition.usual.items()))
    return f"--class {value}" if spec.condition.classes else f"--with {shlex.quote(name)}"


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": code,
        "text": text,
        "json": json.dumps,
        "number": "{:,}".format,
        "quoted": lambda value: json.dumps(markdown_text(value), ensure_ascii=False),
    }
    names = {"library": LIBRARY, "picture": PICTURE_NAME, "program": PROGRAM_NAME}
    environment.globals |= {"version": __version__, **names}  # pyrefly: ignore[bad-assignment] - values may be text
    return environment.get_template("card.md")


def _codes(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    return ((code(name), code(value)) for name, value in values.items())


def _files(exported: CardFacts) -> str:
    head, differences = ["file", "content", "size", "difference from PyTorch"], exported.differences
    rows = (
        (f"`{name}`", _DESCRIPTIONS.get(name, ""), human_bytes(size), str(differences.get(name, "")))
        for name, size in exported.files.items()
    )
    return markdown_table(head, rows) if differences else markdown_table(head[:3], (row[:3] for row in rows))


def _training(facts: run_dir.RunFacts) -> str:
    lines = [f"Computed in {text(facts.precision)}."] if facts.precision else []
    if facts.parameters:
        lines.append(" ".join(f"{text(net)}: {count:,} parameters." for net, count in facts.parameters.items()))
    if facts.versions:
        lines.append(f"Versions: {', '.join(text(f'{name} {version}') for name, version in facts.versions.items())}.")
    fields = TrainConfig.model_fields
    meanings = (fields[name].description or "" if name in fields else "" for name in facts.settings)
    rows = ((*pair, meaning) for pair, meaning in zip(_codes(facts.settings), meanings, strict=True))
    return "\n".join(lines) + "\n\n" + markdown_table(["setting", "value", "meaning"], rows)


def _metrics(found: run_dir.Evaluation) -> str:
    real = {name: f"{value:.4g}" for name, value in found.real_vs_real.items()}
    rows = ((code(name), f"{value:.4g}", real.get(name, "")) for name, value in found.metrics.items())
    return markdown_table(["metric", "value", "real faces against real faces"], rows)
