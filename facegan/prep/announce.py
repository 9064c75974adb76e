"""What a run says before it starts."""

from __future__ import annotations

from facegan.config import PrepConfig
from facegan.console import Console, human_seconds
from facegan.files import human_bytes
from facegan.manifests import completeness, known_datasets
from facegan.prep.plan import ChunkPlan, Plan, estimate
from facegan.prep.splits import shares


def announce(plan: Plan, todo: list[ChunkPlan], config: PrepConfig, workers: int, console: Console) -> None:
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
    if plan.twins:
        console.note(f"{plan.twins:,} are duplicates: they have the bytes of a photograph before them.")
    if new:
        console.note(
            f"{new:,} to prepare with {workers} processes: "
            f"about {human_seconds(seconds)}, about {human_bytes(size)} of disk."
        )
    if config.dedup == "off" and shares(config.split):
        console.warn("a split by hash without --dedup exact may put copies of one photograph on both sides.")
    count, first = plan.gone
    if count:
        console.warn(f"{count:,} photographs of the dataset are gone from the source (first: {first}); "
                     "their faces stay.")  # fmt: skip
    if plan.before and plan.before.versions != plan.versions:
        changed = [
            f"{k} {plan.before.versions.get(k)} → {v}"
            for k, v in plan.versions.items()
            if plan.before.versions.get(k) != v
        ]
        console.warn(
            f"the dataset was begun with other versions ({', '.join(changed)}); new faces may differ slightly."
        )
