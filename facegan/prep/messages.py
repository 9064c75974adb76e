"""What a run says before it starts."""

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


def announce_prep(plan: Plan, todo: list[ChunkPlan], config: PrepConfig, workers: int, console: Console) -> None:
    new = sum(chunk.photos for chunk in todo)
    seconds, size = estimate(new, sum(chunk.bytes for chunk in todo), config, workers)
    ignored = "".join(f", {count:,} {suffix}" for suffix, count in plan.ignored.items())
    console.note(f"{plan.found:,} photographs found" + (f" (ignored{ignored.removeprefix(',')})" if ignored else ""))
    known = known_datasets().get(plan.data_set)
    if known:
        split = f"; recommended: --split {known.prep_split}" if config.split == "none" else ""
        console.note(f"{completeness(known, plan.found)}{split}.")
    if plan.found > new:
        console.note(f"{plan.found - new:,} of them are done already.")
    if plan.duplicates:
        console.note(f"{plan.duplicates:,} are duplicates: they have the bytes of a photograph before them.")
    if new:
        console.note(
            f"{new:,} to prepare with {workers} processes: "
            f"about {human_seconds(seconds)}, about {human_bytes(size)} of disk."
        )
    if config.dedup == "off" and shares(config.split):
        console.warn("a split by hash without --dedup exact may put copies of one photograph on both sides.")
    count, first = plan.missing
    if count:
        console.warn(f"{count:,} photographs of the dataset are gone from the source (first: {first}); "
                     "their faces stay.")  # fmt: skip
    if plan.existing and plan.existing.versions != plan.versions:
        changed = [
            f"{k} {plan.existing.versions.get(k)} → {v}"
            for k, v in plan.versions.items()
            if plan.existing.versions.get(k) != v
        ]
        console.warn(
            f"the dataset was begun with other versions ({', '.join(changed)}); new faces may differ slightly."
        )


# Why photographs were rejected, and which option would change that.

_WORTH_SAYING = 1 / 20  # of the photographs that are rejected; and of those, that a reason accounts for
_OF_THE_SOURCE = frozenset({"unreadable", "truncated", "too_large", "unreachable", "crashed"})  # not of any setting


def advice(rejected: Mapping[str, int], photos: int, config: PrepConfig, table: Path | None = None) -> list[str]:
    """Sentences where more than 5 % of the photographs were rejected; else none.

    The first says how many, the last how to use other settings; between them is one for each reason that accounts for
    at least 5 % of the rejected, the most frequent first, in the order of ``rejected`` where they are equal.

    Args:
        rejected: photographs by reason.
        photos: all that were seen.
        table: photos.parquet. Without it no number is named.
    """
    total = sum(rejected.values())
    if total <= photos * _WORTH_SAYING:
        return []
    reasons = sorted((reason for reason in rejected if rejected[reason]), key=lambda reason: -rejected[reason])
    remedies = {reason: _remedy(reason, config) for reason in reasons if rejected[reason] >= total * _WORTH_SAYING}
    sentences = [f"{total:,} of {photos:,} photographs were rejected ({total / photos:.1%})."]
    if table and "low_score" in remedies:
        remedies["low_score"] = _remedy_low_score(config, table)
    sentences += [f"{rejected[reason]:,} {reason}: {remedy}" for reason, remedy in remedies.items()]
    if not _OF_THE_SOURCE.issuperset(remedies):
        sentences.append("Other settings need another OUT, or --force to make this one anew.")
    return sentences


def _remedy(reason: str, config: PrepConfig) -> str:
    """What the reason means and what would change it."""
    return {
        "unreadable": "they are no pictures, or damaged; no option changes that: fetch them again.",
        "truncated": "they lack rows; no option changes that: fetch them again.",
        "too_large": f"they have over {MAX_PIXELS // 10**6} megapixels (WebP, AVIF: half), or 512 MB; shrink them.",
        "too_small": _remedy_too_small(config),
        "no_face": f"{config.detector} found no face. {_remedy_no_face(config)}",
        "low_score": f"the best face scores less than {config.min_score:g}; a lower --min-score keeps more.",
        "bad_keypoints": _remedy_bad_keypoints(config),
        "several_faces": "--faces only wants photographs with one face; --faces best or all keeps them.",
        "off_edge": _remedy_off_edge(config),
        "blurry": f"they are less sharp than {config.min_sharpness:g}; a lower --min-sharpness keeps more.",
        "duplicate": "another photograph has the same bytes; --dedup off keeps them.",
        "unreachable": "they could not be fetched; --repair tries them again.",
        "crashed": "a decoder or detector failed on them; --repair tries them again.",
    }[reason]


def _remedy_low_score(config: PrepConfig, table: Path) -> str:
    why = f"the best face scores less than {config.min_score:g}"
    found = _worthwhile(*_best_scores(table))
    if found is None or config.faces == "only":  # with a lower score there may be several
        return f"{why}. A --min-score that keeps them also keeps pictures without a face."
    least, faces, others = found
    besides = f", and {others:,} of no_face, which probably hold none" if others else ""
    return f"{why}; --min-score {least / 100:g} would keep {faces:,} of them{besides}."


def _best_scores(table: Path) -> tuple[Counter[int], Counter[int]]:
    """Photographs by their best score in hundredths: those of ``low_score``, and those of ``no_face``."""
    found: dict[str, Counter[int]] = {"low_score": Counter(), "no_face": Counter()}
    for batch in read_batches(table, ["reason", "scores"]):
        for reason, scores in zip(batch["reason"].to_pylist(), batch["scores"].to_pylist(), strict=True):
            if scores and reason in found:
                # The table's scores are rounded to thousandths; before that, 0.35 may have been 0.3495.
                found[reason][math.floor((max(scores) - 0.0005) * 100)] += 1
    return found["low_score"], found["no_face"]


def _worthwhile(faint: Counter[int], none: Counter[int]) -> tuple[int, int, int] | None:
    """The least --min-score, in hundredths, by which nine of ten further photographs hold a face; and how many do and
    don't. None where there is no such score."""
    for least in sorted(faint):
        faces, others = (sum(n for score, n in counts.items() if score >= least) for counts in (faint, none))
        if faces >= 9 * others:
            return least, faces, others
    return None


def _remedy_too_small(config: PrepConfig) -> str:
    if config.crop in FIXED_CROPS:
        width, height = FIXED_CROPS[config.crop].least_size
        return f"--crop {config.crop} needs {width} × {height} pixels; --crop squash takes any photograph."
    return f"their crop is smaller than {config.min_face} pixels; a lower --min-face keeps more."


def _remedy_no_face(config: PrepConfig) -> str:
    if config.crop_is_fixed:
        return f"--crop {config.crop} needs none: --detector none keeps them."
    if config.detector == "mediapipe-short":
        return "--detector mediapipe looks for small faces as well."
    if config.detector == "mediapipe-full":
        return "--detector mediapipe looks for large faces as well."
    if config.rotate == "none":
        return "--rotate auto also looks for faces that lie on a side or stand on their head."
    return "Another --detector may find some: MODULE:CLASS names one of your own."


def _remedy_bad_keypoints(config: PrepConfig) -> str:
    why = "eyes and mouth are not where a face has them, as in one that stands on its head"
    if config.rotate == "none" and not config.crop_is_fixed:
        return f"{why}; --rotate auto turns photographs upright."
    return f"{why}; another --detector may tell better."


def _remedy_off_edge(config: PrepConfig) -> str:
    smaller = ", and so does a smaller --margin" if config.margin > 1 else ""
    why = f"more than {config.max_outside:.0%} of the crop lies outside the photograph"
    return f"{why}; a higher --max-outside keeps more{smaller}."
