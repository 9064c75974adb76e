"""A look at a few photographs before a run: the share that it will keep, and which settings would keep more."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from facegan.config import PrepConfig
from facegan.config.base import option_of
from facegan.console import Console, human_seconds
from facegan.errors import DatasetError
from facegan.prep.chunk import Item, Survey
from facegan.prep.engines.local import WorkerDied
from facegan.prep.engines.scheduler import Engine
from facegan.prep.plan import ChunkPlan, Plan

MIN_NEW = 200  # photographs; a run of fewer is over before anybody has read a forecast
PHOTOS = 128  # that are looked at
# At 0.5 of photographs cut to the detector's box 93 % fit, and at 0.4 all do; less would cut off mouths.
MARGINS = tuple(percent / 100 for percent in range(100, 35, -5))
_FIT = 0.98  # share of faces that must fit into their photograph for --margin auto
_EXPECTED = 0.9  # below this share of kept photographs other settings are tried
_PIECES = 2  # per worker: the last one to finish has less to do

_Reasons = tuple[str, ...]  # of a photograph, one for each of several settings; "" where it is kept


@dataclass(frozen=True)
class Alternative:
    """Settings that would keep more, as options to copy."""

    options: str
    share: float  # of photographs that they would keep


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to keep, from `photos` of its new photographs."""

    photos: int
    kept: int
    rejected: dict[str, int]  # by reason
    margin: float  # of the crop, chosen by --margin auto or given
    about_seconds: float  # of the whole run
    alternatives: tuple[Alternative, ...] = ()  # best first

    @property
    def share(self) -> float:
        return self.kept / self.photos

    @property
    def others(self) -> list[str]:
        """Lines about the alternatives, if there are some."""
        width = max((len(one.options) for one in self.alternatives), default=0)
        rows = [f"{one.options:{width}}  {one.share:.0%}" for one in self.alternatives]
        return ["Other settings would keep:", *rows] if rows else []

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "alternatives": list(map(asdict, self.alternatives)), "share": round(self.share, 4)}


def forecast(engine: Engine, plan: Plan, workers: int) -> Forecast:
    """Look at photographs of the plan that are evenly spaced by name, with its detector and an engine ready for it."""
    config = plan.inputs.config
    # The margin of a dataset, or of a run that was killed before its first chunk, stays.
    chooses = plan.inputs.request.settings.margin == "auto" and plan.existing is None and config.scale == 1
    items = plan.sample(PHOTOS)
    reasons, seconds = _survey(engine, items, [config])
    found = [reason for (reason,) in reasons]
    if chooses and not config.crop_is_fixed and found.count("off_edge") > (1 - _FIT) * _with_face(found):
        config = config.with_margin(_fitting_margin(engine, items, found, config))
        found = _again(engine, items, found, [config])[0]
    better: list[Alternative] = []
    if found.count("") < _EXPECTED * len(found):
        others = _others(config)
        for options, reasons in zip(others, _again(engine, items, found, list(others.values())), strict=True):
            if (kept := reasons.count("")) > found.count(""):
                better.append(Alternative(options, round(kept / len(found), 4)))
    return Forecast(
        photos=len(found),
        kept=found.count(""),
        rejected=dict(Counter(filter(None, found)).most_common()),
        margin=config.scale,
        about_seconds=round(seconds / len(items) * plan.new / max(1, workers), 1),
        alternatives=tuple(sorted(_best_margin(better), key=lambda alternative: -alternative.share)),
    )


def needs_forecast(plan: Plan, todo: list[ChunkPlan]) -> bool:
    """Before many photographs, copies not counted, unless an earlier run has begun with them."""
    new = plan.new + len(plan.left_out) - plan.duplicates  # those left out are looked at: they keep their place
    return not plan.rebuild and new > MIN_NEW and len(todo) == len(plan.todo)


def announce(found: Forecast, plan: Plan, console: Console) -> None:
    reasons = "".join(f", {count} {reason}" for reason, count in found.rejected.items())
    console.note(
        f"Looked at {found.photos} of {plan.new:,} photographs: {found.kept} kept{reasons}; "
        f"about {human_seconds(found.about_seconds)} for all."
    )
    if plan.inputs.request.settings.margin == "auto" and found.margin != 1:
        console.note(
            f"--margin auto chose {found.margin:g}: at 1 too many crops reach outside their photographs. "
            f"--crop box would show more of each face."
        )
    if found.others:
        console.note(*found.others)


def require_yield(found: Forecast, min_yield: float) -> None:
    """Raises DatasetError if fewer photographs than this share are expected to be kept."""
    if found.share >= min_yield:
        return
    others = "\n  ".join(found.others) + "\n" if found.others else ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.rejected.items())
    raise DatasetError(
        f"Only {found.kept} of {found.photos} photographs would be kept ({reasons}), less than --min-yield "
        f"{min_yield:g}. Nothing was written.\n{others}Add --min-yield 0 to prepare them all the same."
    )


def _survey(engine: Engine, items: Sequence[Item], configs: Sequence[PrepConfig]) -> tuple[list[_Reasons], float]:
    """Each photograph's reasons, one for each of the settings, and the seconds of all workers together."""
    size = -(-len(items) // (_PIECES * engine.slots))
    pieces = [tuple(items[start : start + size]) for start in range(0, len(items), size)]
    tasks = {engine.submit(Survey(piece, tuple(configs))): number for number, piece in enumerate(pieces)}
    answers, total = dict[int, list[_Reasons]](), 0.0
    while len(answers) < len(pieces):
        for task in engine.wait():
            number = tasks[task]
            try:
                answers[number], seconds = engine.result(task)
                total += seconds
            except WorkerDied:  # the run itself finds the photograph
                answers[number] = [("crashed",) * len(configs)] * len(pieces[number])
    return list(itertools.chain.from_iterable(answers[number] for number in range(len(pieces)))), total


def _again(engine: Engine, items: Sequence[Item], found: list[str], configs: Sequence[PrepConfig]) -> list[list[str]]:
    """For each of the settings, every photograph's reason. Those kept are taken to be kept by all of them."""
    rejected = [item for item, reason in zip(items, found, strict=True) if reason]
    reasons = iter(_survey(engine, rejected, configs)[0])
    by_photo = [next(reasons) if reason else ("",) * len(configs) for reason in found]
    return [list(column) for column in zip(*by_photo, strict=True)]


def _with_face(found: list[str]) -> int:
    return found.count("") + found.count("off_edge")


def _fitting_margin(engine: Engine, items: Sequence[Item], found: list[str], config: PrepConfig) -> float:
    """The largest margin at which nearly all faces fit; 1 if there is none."""
    by_margin = _again(engine, items, found, [config.with_margin(margin) for margin in MARGINS])
    for margin, reasons in zip(MARGINS, by_margin, strict=True):
        if reasons.count("off_edge") <= (1 - _FIT) * _with_face(found):
            return margin
    return 1.0


def _others(config: PrepConfig) -> dict[str, PrepConfig]:
    """Other settings by their options."""
    changes: list[dict[str, Any]] = []
    if config.crop_is_fixed:
        changes += [{"crop": "squash"}] if config.crop != "squash" else []
    else:
        changes += [{"margin": margin} for margin in MARGINS if margin < config.scale]
        changes += [{"crop": "box", "margin": 1.0}] if config.crop == "aligned" else []
        changes += [{"max_outside": 0.5}] if config.max_outside < 0.5 else []
        changes += [{"rotate": "auto"}] if config.rotate == "none" else []
    if config.detector != "none":
        changes += [{"min_score": 0.3}] if config.min_score > 0.3 else []
        changes += [{"faces": "best"}] if config.faces == "only" else []
    changes += [{"min_face": 0}] if config.min_face else []
    found = {}
    for change in changes:
        name, value = next(iter(change.items()))
        found[f"{option_of(name)} {value}"] = config.model_copy(update=change)
    return found


def _best_margin(found: list[Alternative]) -> list[Alternative]:
    """Of the margins only the largest that keeps nearly as many as any."""
    margins = [one for one in found if one.options.startswith("--margin")]
    most = max((one.share for one in margins), default=0.0)
    best = next((one for one in margins if one.share >= most - 0.02), None)
    return [one for one in found if one not in margins or one is best]
