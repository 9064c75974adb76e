"""What a run says: its plan before it starts, and afterwards why photographs were rejected and what would keep them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from facegan import system
from facegan.config import PrepConfig
from facegan.console import Console, counted, human_seconds
from facegan.faces.crop import FIXED_CROPS
from facegan.faces.decode import MAX_PIXELS, heic_is_installed
from facegan.files import human_bytes
from facegan.manifests import completeness, known_datasets
from facegan.prep.commit import ChunkMarker
from facegan.prep.lists import shares
from facegan.prep.plan import ChunkPlan, Plan, estimate
from facegan.shards.format import DatasetInfo
from facegan.shards.photos import read_batches

_ADVICE_SHARE = 1 / 20  # of photographs that are rejected; and of those, that a reason accounts for
_OF_THE_SOURCE = frozenset({"unreadable", "truncated", "too_large", "unreachable", "crashed"})  # no setting helps


def announce_prep(plan: Plan, todo: list[ChunkPlan], console: Console) -> None:
    config, workers = plan.inputs.config, plan.inputs.workers
    new = sum(chunk.photos for chunk in todo)
    ignored = ", ".join(f"{count:,} {suffix}" for suffix, count in plan.ignored.items())
    console.note(f"{counted(plan.found, 'photograph')} found" + (f" (ignored {ignored})" if ignored else ""))
    if known := known_datasets().get(plan.data_set):
        split = f"; recommended: --split {known.prep_split}" if config.split == "none" else ""
        console.note(f"{completeness(known, plan.found)}{split}.")
    if plan.found > new:
        console.note(f"{plan.found - new:,} of them are finished already.")
    if left_out := plan.index.left_out:
        console.note(f"{left_out:,} more are left out, by --exclude or facegan forget.")
    if plan.duplicates:
        console.note(f"{plan.duplicates:,} are duplicates: they have the bytes of an earlier photograph.")
    if new:
        seconds, size = estimate(new, sum(chunk.bytes for chunk in todo), config, workers)
        console.note(
            f"{new:,} to prepare with {counted(workers, 'process')}: "
            f"about {human_seconds(seconds)}, about {human_bytes(size)} of disk."
        )
    request = plan.inputs.request
    is_limited = request.photos.workers == "auto" and request.ray_address is None and workers < system.usable_cpus()
    if is_limited and len(todo) > workers:
        console.note(
            f"Memory limits the workers: each takes up to {human_bytes(system.PREP_WORKER_BYTES)}, and "
            f"{human_bytes(system.available_bytes())} are available. --workers N sets another number."
        )
    heic = 0 if heic_is_installed() else sum(name.lower().endswith((b".heic", b".heif")) for name in plan.index.names())
    if heic and new:
        console.warn(f"Not decoded: {counted(heic, 'HEIC file')}. Stop, run: pip install 'facegan[heic]', start again.")
    if config.dedup == "off" and shares(config.split):
        console.warn("--split by shares without --dedup exact or near may put copies into different splits.")
    count, first = plan.missing
    if count:
        gone = f"{counted(count, 'photograph')} of the dataset (first: {first})"
        console.warn(f"Not in the source any more: {gone}. The dataset keeps its faces.")
    if plan.existing and (old := plan.existing.versions) != plan.inputs.versions:
        changed = ", ".join(f"{k} {old.get(k)} → {v}" for k, v in plan.inputs.versions.items() if old.get(k) != v)
        console.warn(f"The dataset was started with other versions ({changed}). New faces may differ slightly.")


def warn_of_changed_bytes(after: DatasetInfo, plan: Plan, console: Console) -> None:
    """Of rebuilt shards whose bytes changed although all their photographs had been readable before."""
    before = plan.existing
    if before is None or before.totals.rejected != after.totals.rejected:
        return
    old_sums, new_sums = ({entry.name: entry.sha256 for entry in info.shards} for info in (before, after))
    for number in plan.rebuild:
        name = before.chunks[number].shard
        if name and name == after.chunks[number].shard and old_sums[name] != new_sums[name]:
            console.warn(f"{name} has changed: library versions, the CPU or photographs differ from the first run's.")


def advice(rejected: Mapping[str, int], photos: int, config: PrepConfig, table: Path | None = None) -> list[str]:
    """Sentences if more than 5 % of the photographs were rejected.

    The first has the total, the last says how to use other settings. Between them is one for each reason that accounts
    for at least 5 % of the rejected, the most frequent first. ``table`` is photos.parquet, for a ``--min-score``.
    """
    total = sum(rejected.values())
    if total <= photos * _ADVICE_SHARE:
        return []
    reasons = sorted((reason for reason in rejected if rejected[reason]), key=lambda reason: -rejected[reason])
    named = [reason for reason in reasons if rejected[reason] >= total * _ADVICE_SHARE]
    sentences = [f"Rejected: {total:,} of {counted(photos, 'photograph')} ({total / photos:.1%})."]
    sentences += [f"{rejected[reason]:,} {reason}: {_remedy(reason, config, table)}" for reason in named]
    if not _OF_THE_SOURCE.issuperset(named):
        sentences.append("To change settings use another OUT, or add --force to delete this one and prepare again.")
    return sentences


def warning_of_chunk(chunk: ChunkMarker, config: PrepConfig) -> str:
    """While the run continues: this chunk was mostly rejected, and which option would change that."""
    total, reason = sum(chunk.rejected.values()), max(chunk.rejected, key=lambda reason: chunk.rejected[reason])
    return (
        f"Chunk {chunk.number}: {total:,} of {counted(chunk.photos, 'photograph')} rejected, "
        f"{chunk.rejected[reason]:,} {reason}: {_remedy(reason, config, None)}"
    )


def _remedy(reason: str, config: PrepConfig, table: Path | None) -> str:
    """What these settings mean by the reason, and what would change it."""
    smaller = ", and so does a smaller --margin" if config.scale > 1 else ""
    match reason:
        case "too_small" if config.crop in FIXED_CROPS:
            width, height = FIXED_CROPS[config.crop].least_size
            return f"--crop {config.crop} needs {width} × {height} pixels. --crop squash takes any photograph."
        case "no_face":
            return f"{config.detector} found no face. {_remedy_no_face(config)}"
        case "low_score":
            return f"the best face scores less than {config.min_score:g}. {_remedy_low_score(config, table)}"
        case "bad_keypoints":
            is_turned = config.rotate == "none" and not config.crop_is_fixed
            remedy = "--rotate auto turns photographs upright" if is_turned else "Another --detector may do better"
            return f"eyes and mouth are not where a face has them, as in an upside-down face. {remedy}."
    return {
        "unreadable": "not images, or damaged. No option helps: fetch them again.",
        "truncated": "rows are missing. No option helps: fetch them again.",
        "too_large": f"over {MAX_PIXELS // 10**6} megapixels (WebP, AVIF: half) or 512 MB. Shrink them.",
        "too_small": f"the crop is smaller than {config.min_face} pixels. A lower --min-face keeps more.",
        "several_faces": "--faces only takes photographs with one face. --faces best or all keeps them.",
        "off_edge": f"more than {config.max_outside:.0%} of the crop is outside the photograph. "
        f"A higher --max-outside keeps more{smaller}.",
        "blurry": f"less sharp than {config.min_sharpness:g}. A lower --min-sharpness keeps more.",
        "dark": f"their brightness is below {config.min_brightness:g}. A lower --min-brightness keeps more.",
        "turned_away": f"they look more than {config.max_yaw:g}° aside. A higher --max-yaw keeps more.",
        "duplicate": "another photograph has the same bytes. --dedup off keeps them.",
        "near_duplicate": f"their hashes differ from that of a face kept in at most {config.near_bits} bits. Fewer "
        "(--dedup near:BITS) or --dedup exact keeps more.",
        "unreachable": "they could not be fetched. --repair tries them again.",
        "crashed": "a decoder or detector failed on them. --repair tries them again.",
    }[reason]


def _remedy_no_face(config: PrepConfig) -> str:
    if config.crop_is_fixed:
        return f"--crop {config.crop} needs no face: --detector none keeps them."
    if config.detector in ("mediapipe-short", "mediapipe-full"):
        return f"--detector mediapipe also finds {'small' if config.detector == 'mediapipe-short' else 'large'} faces."
    if config.rotate == "none":
        return "--rotate auto also finds sideways and upside-down faces."
    return "Another --detector may find some: MODULE:CLASS names your own."


def _remedy_low_score(config: PrepConfig, table: Path | None) -> str:
    if table is None:
        return "A lower --min-score keeps more."
    best: dict[str, Counter[int]] = {"low_score": Counter(), "no_face": Counter()}  # photographs by score in hundredths
    for batch in read_batches(table, ["reason", "scores"]):
        for reason, scores in zip(batch["reason"].to_pylist(), batch["scores"].to_pylist(), strict=True):
            if scores and reason in best:
                best[reason][round(max(scores) * 1000) // 10] += 1
    for score in sorted(best["low_score"]):
        faces, others = (sum(n for at, n in counts.items() if at >= score) for counts in best.values())
        # The lowest at which nine of ten have a face; with --faces only it may find several in a photograph.
        if faces >= 9 * others and config.faces != "only":
            also = f", and {others:,} of no_face, which probably have none" if others else ""
            return f"--min-score {score / 100:g} would keep {faces:,} of them{also}."
    return "A --min-score that keeps them also keeps pictures without a face."
