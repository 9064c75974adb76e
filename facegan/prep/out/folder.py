"""The folder that a dataset is made in: what stands there, what an earlier run left, what ``--force`` deletes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from facegan.errors import DamagedFile, DatasetError
from facegan.files import disk_errors, make_folder, read_json, remove_partials, write_json
from facegan.prep.finish import JOURNAL, carry_out_journal, chunks_folder, is_ours
from facegan.prep.out.commit import CHUNKS, REPAIRS
from facegan.prep.plan import Plan
from facegan.shards.layout import DATASET_FILE, STATE_FOLDER, DatasetInfo

UNPACKED = "unpacked"
SETTINGS = "settings.json"


def refuse_foreign(out: Path) -> None:
    """
    Raises:
        DatasetError: ``out`` holds files, and they are none of ours.
    """
    with disk_errors(out):
        if not out.exists() or (out / STATE_FOLDER).is_dir() or _tells_of_a_dataset(out / DATASET_FILE):
            return
        if not out.is_dir() or any(out.iterdir()):
            raise DatasetError(f"{out} is not empty, and what is in it is no dataset. Choose a new folder.")


def _tells_of_a_dataset(path: Path) -> bool:
    """Whether a dataset.json is one of facegan's, if perhaps of another version: StyleGAN's has that name too."""
    try:
        found = read_json(path)
    except (OSError, DamagedFile):
        return False
    return isinstance(found, dict) and {"settings", "shards"} <= found.keys()


def standing(out: Path, force: bool) -> DatasetInfo | None:
    """The dataset in ``out`` that is to be continued; None where there is none, or where it is to be made anew."""
    return DatasetInfo.read(out) if (out / DATASET_FILE).is_file() and not force else None


def begun_with(out: Path, before: DatasetInfo | None) -> dict[str, Any] | None:
    """The settings that ``out`` was begun with: those of the dataset that stands, or of a run that did not finish."""
    if before:
        return before.settings
    try:
        found = read_json(out / STATE_FOLDER / SETTINGS)
    except (OSError, DamagedFile):
        return None  # never begun; or killed before a photograph was taken
    return found if isinstance(found, dict) else None


def make_ready(out: Path, plan: Plan, force: bool, repair: bool) -> Path:
    """Clears away what nobody will go on with; the folder for chunks."""
    state = out / STATE_FOLDER
    with disk_errors(out):
        if force and ((out / DATASET_FILE).exists() or begun_with(out, None) != plan.settings):
            (out / DATASET_FILE).unlink(missing_ok=True)  # first: without it nobody takes the rest for a dataset
            shutil.rmtree(state / CHUNKS, ignore_errors=True)
            shutil.rmtree(state / REPAIRS, ignore_errors=True)
        if repair and not plan.again:
            shutil.rmtree(state / REPAIRS, ignore_errors=True)
        if plan.before is None:  # shards without a dataset: of one that was being deleted
            for path in out.iterdir():
                if is_ours(path.name):
                    path.unlink()
        shutil.rmtree(state / UNPACKED, ignore_errors=True)  # by a run that was killed
        chunks = make_folder(state / chunks_folder(plan))
        write_json(state / SETTINGS, plan.settings)
        for folder in (out, state, chunks):
            remove_partials(folder)
    return chunks


def end_earlier_run(out: Path, force: bool) -> None:
    """Carries out what a run had decided on when it was killed; with ``force`` it is dropped."""
    if force:
        (out / STATE_FOLDER / JOURNAL).unlink(missing_ok=True)
    else:
        carry_out_journal(out)
