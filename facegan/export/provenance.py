"""Where a generator comes from: the run that trained it, its dataset and its evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from facegan.errors import CheckpointError, DatasetError
from facegan.files import sha256_file
from facegan.manifests import KnownDataset, known_datasets
from facegan.nets.weights import FILE_NAME
from facegan.remote import is_url
from facegan.run_dir import (
    RECORD,
    STATE,
    DatasetFacts,
    Evaluation,
    RunFacts,
    count_of,
    newest_images,
    read_evaluation,
    read_facts,
    read_run,
)
from facegan.shards.format import DatasetInfo


@dataclass(frozen=True)
class Provenance:
    """
    Attributes:
        file: the generator's file.
        record: run.json, or None if it is missing or unreadable.
        images: real images the generator was trained with, or None if unknown.
        dataset: dataset.json of the training faces, or None if it is not available.
        known: the public data set that the photographs belong to.
        evaluation: eval.json, only if it measured this very generator.
        missing: one sentence for each fact that could not be found.
    """

    file: Path
    record: RunFacts | None
    images: int | None
    dataset: DatasetInfo | None = None
    known: KnownDataset | None = None
    evaluation: Evaluation | None = None
    missing: tuple[str, ...] = ()


def find_provenance(path: Path) -> Provenance:
    """The provenance of ``path``: a run, one of its checkpoints, or a generator's file.

    Raises:
        CheckpointError: there is no generator.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        hint = "A run writes it with its first checkpoint." if path.is_dir() else "Name a run or a .safetensors file."
        raise CheckpointError(f"There is no {file}. {hint}")
    folder = file.parent
    is_checkpoint = (folder / STATE).is_file()
    run = folder.parent.parent if is_checkpoint else folder
    record = read_run(run)
    images = read_facts(folder / STATE).get("images") if is_checkpoint else newest_images(folder)
    missing: list[str] = []
    if not record:
        why = f"{run / RECORD} cannot be read" if (run / RECORD).exists() else f"{file} is not in a run's folder"
        missing.append(f"{why}: the card will not say how it was trained, or on what.")
    dataset = _dataset(record.dataset, missing) if record else None
    known = known_datasets().get(dataset.data_set) if dataset else None
    evaluation = _evaluation([folder, run], file, missing)
    return Provenance(file, record, count_of(images), dataset, known, evaluation, tuple(missing))


def _dataset(facts: DatasetFacts, missing: list[str]) -> DatasetInfo | None:
    path = facts.path
    if not path or is_url(path):
        missing.append("The run's dataset is not on this machine: the card will not name the photographs' terms.")
        return None
    try:
        info = DatasetInfo.read(Path(path))
    except (DatasetError, OSError, ValueError) as error:  # ValueError: an impossible path
        first = str(error).partition("\n")[0]
        missing.append(f"The run's dataset cannot be read ({first}): the card will not name the photographs' terms.")
        return None
    if facts.faces not in {sum(shard.samples for shard in info.split_shards(split)) for split in info.splits}:
        missing.append(f"{path} has changed since the run was trained: the card describes it as it is now.")
    return info


def _evaluation(folders: list[Path], generator: Path, missing: list[str]) -> Evaluation | None:
    found = next(filter(None, map(read_evaluation, folders)), None)
    if not found:
        missing.append("There is no eval.json: the card has no metrics. Run facegan eval first to add them.")
        return None
    sha256 = found.measured.get("generator_sha256")
    if sha256 is not None and sha256 != sha256_file(generator):
        missing.append("eval.json measured another generator of this run. Run facegan eval again.")
        return None
    return found
