"""What a run says: its plan before it starts, and afterwards why photographs were rejected and what would keep them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from facegan.config import PrepConfig
from facegan.console import Console, human_seconds
from facegan.faces.crop import FIXED_CROPS
from facegan.faces.decode import MAX_PIXELS
from facegan.files import human_bytes
from facegan.manifests import completeness, known_datasets
from facegan.prep.plan import ChunkPlan, Plan, estimate, shares
from facegan.shards.photos import read_batches

_ADVICE_SHARE = 1 / 20  # of photographs that are rejected; and of those, that a reason accounts for
_OF_THE_SOURCE = frozenset({"unreadable", "truncated", "too_large", "unreachable", "crashed"})  # no setting helps


def announce_prep(plan: Plan, todo: list[ChunkPlan], config: PrepConfig, workers: int, console: Console) -> None:
    new = sum(chunk.photos for chunk in todo)
    seconds, size = estimate(new, sum(chunk.bytes for chunk in todo), config, workers)
    ignored = ", ".join(f"{count:,} {suffix}" for suffix, count in plan.ignored.items())
    console.note(f"{plan.found:,} photographs found" + (f" (ignored {ignored})" if ignored else ""))
    known = known_datasets().get(plan.data_set)
    if known:
        split = f"; recommended: --split {known.prep_split}" if config.split == "none" else ""
        console.note(f"{completeness(known, plan.found)}{split}.")
    if plan.found > new:
        console.note(f"{plan.found - new:,} of them are finished already.")
    if plan.duplicates:
        console.note(f"{plan.duplicates:,} are duplicates: they have the bytes of an earlier photograph.")
    if new:
        console.note(
            f"{new:,} to prepare with {workers} processes: "
            f"about {human_seconds(seconds)}, about {human_bytes(size)} of disk."
        )
    if config.dedup == "off" and shares(config.split):
        console.warn("--split by shares without --dedup exact may put copies of a photograph into different splits.")
    count, first = plan.missing
    if count:
        console.warn(f"{count:,} photographs of the dataset are not in the source (first: {first}). Their faces stay.")
    if plan.existing and plan.existing.versions != plan.versions:
        old = plan.existing.versions
        changed = ", ".join(f"{k} {old.get(k)} → {v}" for k, v in plan.versions.items() if old.get(k) != v)
        console.warn(f"The dataset was started with other versions ({changed}). New faces may differ slightly.")


def advice(rejected: Mapping[str, int], photos: int, config: PrepConfig, table: Path | None = None) -> list[str]:
    """Sentences if more than 5 % of the photographs were rejected.

    The first has the total, the last says how to use other settings. Between them is one for each reason that accounts
    for at least 5 % of the rejected, the most frequent first.

    Args:
        rejected: photographs by reason.
        photos: all photographs.
        table: photos.parquet, to suggest a ``--min-score``.
    """
    total = sum(rejected.values())
    if total <= photos * _ADVICE_SHARE:
        return []
    reasons = sorted((reason for reason in rejected if rejected[reason]), key=lambda reason: -rejected[reason])
    remedies = {reason: _remedy(reason, config) for reason in reasons if rejected[reason] >= total * _ADVICE_SHARE}
    if table and "low_score" in remedies:
        remedies["low_score"] = _remedy_low_score(config, table)
    sentences = [f"{total:,} of {photos:,} photographs were rejected ({total / photos:.1%})."]
    sentences += [f"{rejected[reason]:,} {reason}: {remedy}" for reason, remedy in remedies.items()]
    if not _OF_THE_SOURCE.issuperset(remedies):
        sentences.append("To change settings use another OUT, or add --force to delete this one and prepare again.")
    return sentences


def _remedy(reason: str, config: PrepConfig) -> str:
    """What these settings mean by the reason, and what would change it."""
    return {
        "unreadable": "not images, or damaged. No option helps: fetch them again.",
        "truncated": "rows are missing. No option helps: fetch them again.",
        "too_large": f"over {MAX_PIXELS // 10**6} megapixels (WebP, AVIF: half) or 512 MB. Shrink them.",
        "too_small": _remedy_too_small(config),
        "no_face": f"{config.detector} found no face. {_remedy_no_face(config)}",
        "low_score": f"the best face scores less than {config.min_score:g}. A lower --min-score keeps more.",
        "bad_keypoints": _remedy_bad_keypoints(config),
        "several_faces": "--faces only takes photographs with one face. --faces best or all keeps them.",
        "off_edge": f"more than {config.max_outside:.0%} of the crop is outside the photograph. "
        f"A higher --max-outside keeps more{', and so does a smaller --margin' if config.margin > 1 else ''}.",
        "blurry": f"less sharp than {config.min_sharpness:g}. A lower --min-sharpness keeps more.",
        "duplicate": "another photograph has the same bytes. --dedup off keeps them.",
        "unreachable": "they could not be fetched. --repair tries them again.",
        "crashed": "a decoder or detector failed on them. --repair tries them again.",
    }[reason]


def _remedy_too_small(config: PrepConfig) -> str:
    if config.crop in FIXED_CROPS:
        width, height = FIXED_CROPS[config.crop].least_size
        return f"--crop {config.crop} needs {width} × {height} pixels. --crop squash takes any photograph."
    return f"the crop is smaller than {config.min_face} pixels. A lower --min-face keeps more."


def _remedy_no_face(config: PrepConfig) -> str:
    if config.crop_is_fixed:
        return f"--crop {config.crop} needs no face: --detector none keeps them."
    if config.detector == "mediapipe-short":
        return "--detector mediapipe also finds small faces."
    if config.detector == "mediapipe-full":
        return "--detector mediapipe also finds large faces."
    if config.rotate == "none":
        return "--rotate auto also finds sideways and upside-down faces."
    return "Another --detector may find some: MODULE:CLASS names your own."


def _remedy_bad_keypoints(config: PrepConfig) -> str:
    why = "eyes and mouth are not where a face has them, as in an upside-down face"
    if config.rotate == "none" and not config.crop_is_fixed:
        return f"{why}. --rotate auto turns photographs upright."
    return f"{why}. Another --detector may do better."


def _remedy_low_score(config: PrepConfig, table: Path) -> str:
    why = f"the best face scores less than {config.min_score:g}"
    found = _useful_min_score(*_best_scores(table))
    if found is None or config.faces == "only":  # with a lower score there may be several faces
        return f"{why}. A --min-score that keeps them also keeps pictures without a face."
    score, faces, others = found
    also = f", and {others:,} of no_face, which probably have none" if others else ""
    return f"{why}. --min-score {score / 100:g} would keep {faces:,} of them{also}."


def _best_scores(table: Path) -> tuple[Counter[int], Counter[int]]:
    """Photographs by their best score in hundredths: those of ``low_score``, and those of ``no_face``."""
    found: dict[str, Counter[int]] = {"low_score": Counter(), "no_face": Counter()}
    for batch in read_batches(table, ["reason", "scores"]):
        for reason, scores in zip(batch["reason"].to_pylist(), batch["scores"].to_pylist(), strict=True):
            if scores and reason in found:
                # The table's scores are rounded to thousandths: 0.35 may have been 0.3495.
                found[reason][math.floor((max(scores) - 0.0005) * 100)] += 1
    return found["low_score"], found["no_face"]


def _useful_min_score(faint: Counter[int], none: Counter[int]) -> tuple[int, int, int] | None:
    """The lowest --min-score, in hundredths, at which nine of ten further photographs have a face, with the numbers of
    those that have one and those that do not; None if there is no such score."""
    for score in sorted(faint):
        faces, others = (sum(n for at, n in counts.items() if at >= score) for counts in (faint, none))
        if faces >= 9 * others:
            return score, faces, others
    return None
