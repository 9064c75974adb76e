"""Where a generator comes from: the run that trained it, the faces it was trained on, what was measured of it."""

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
        file: the generator's.
        record: run.json; None where there is none that can be read.
        images: that the generator was trained with; None where nothing tells.
        dataset: of the faces; None where the run names none, or it is not there any more, or another now.
        known: the data set that their photographs are of.
        evaluation: eval.json; None unless it is of this very generator.
        missing: what could not be found out, as sentences for people.
    """

    file: Path
    record: RunFacts | None
    images: int | None
    dataset: DatasetInfo | None = None
    known: KnownDataset | None = None
    evaluation: Evaluation | None = None
    missing: tuple[str, ...] = ()


def find_provenance(path: Path) -> Provenance:
    """
    Args:
        path: a run, one of its checkpoints, or a generator's file.

    Raises:
        CheckpointError: there is no generator.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        what = "a run writes it with its first checkpoint" if path.is_dir() else "name a run, or a .safetensors file"
        raise CheckpointError(f"There is no {file}: {what}.")
    folder = file.parent
    is_checkpoint = (folder / STATE).is_file()
    run = folder.parent.parent if is_checkpoint else folder
    record = read_run(run)
    images = read_facts(folder / STATE).get("images") if is_checkpoint else newest_images(folder)
    missing: list[str] = []
    if not record:
        why = f"{run / RECORD} can't be read" if (run / RECORD).exists() else f"{file} lies in no run's folder"
        missing.append(f"{why}: the card can't say how it was trained, and on what.")
    dataset = _dataset(record.dataset, missing) if record else None
    known = known_datasets().get(dataset.data_set) if dataset else None
    evaluation = _evaluation([folder, run], file, missing)
    return Provenance(file, record, count_of(images), dataset, known, evaluation, tuple(missing))


def _dataset(facts: DatasetFacts, missing: list[str]) -> DatasetInfo | None:
    """None, and a sentence more in ``missing``, where the faces are not at hand as they were."""
    where = facts.path
    if not where or is_url(where):
        missing.append(
            "The run's faces lie in no folder of this machine: the card can't say whose terms hold for them."
        )
        return None
    try:
        info = DatasetInfo.read(Path(where))
    except (DatasetError, OSError, ValueError) as error:  # of a path that no file can have
        first = str(error).partition("\n")[0]
        missing.append(f"The run's faces can't be looked at ({first}): the card can't say whose terms hold for them.")
        return None
    if facts.faces not in {sum(shard.samples for shard in info.split_shards(split)) for split in info.splits}:
        missing.append(f"{where} has other faces than the run was trained on: the card tells of those that it has now.")
    return info


def _evaluation(folders: list[Path], generator: Path, missing: list[str]) -> Evaluation | None:
    found = next(filter(None, map(read_evaluation, folders)), None)
    if not found:
        missing.append("Nothing was measured (facegan eval writes eval.json): the card has no metrics.")
        return None
    sha256 = found.measured.get("generator_sha256")
    if sha256 is not None and sha256 != sha256_file(generator):
        missing.append("eval.json is of another generator of this run: facegan eval has to measure this one again.")
        return None
    return found
