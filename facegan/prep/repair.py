"""``--repair``: shards that are missing or altered are made again, and photographs that stayed away are tried again.

Only the chunks concerned are run; the others stay as they are. A shard that is made again has the bytes it had.
"""

from __future__ import annotations

from typing import Any

from facegan.console import Console, shown
from facegan.errors import DatasetError
from facegan.files import sha256_file
from facegan.prep.attributes import Attributes
from facegan.prep.listing.catalogue import Catalogue
from facegan.prep.out.home import Home
from facegan.prep.plan import ChunkPlan, Plan, plan_chunk, set_attributes
from facegan.prep.settings import library_versions
from facegan.shards.layout import PHOTOS_FILE, DatasetInfo, ShardEntry
from facegan.shards.photos import read_in_pieces, read_known

_TRY_AGAIN = ("unreachable", "crashed")


def plan_repair(
    where: str,
    catalogue: Catalogue,
    home: Home,
    settings: dict[str, Any],
    before: DatasetInfo,
    attributes: Attributes | None,
    console: Console,
) -> Plan:
    """
    Raises:
        DatasetError: photos.parquet was altered, or a photograph that is needed is gone.
    """
    out = home.folder
    photos = out / PHOTOS_FILE
    if not photos.is_file() or sha256_file(photos) != before.photos_sha256:
        raise DatasetError(f"{photos} is missing or altered, and without it nothing can be repaired: use --force.")
    if sum(_sizes(before)) != before.totals.photos:
        raise DatasetError(f"{out} does not tell how its shards were cut (it was selected from others): use --force.")
    catalogue.arrange()
    catalogue.add_known(read_known(photos))
    catalogue.set_root(known=True)
    if attributes:
        set_attributes(catalogue, attributes)
    broken = {entry.name: why for entry in before.shards if (why := _broken(home, entry))}
    for name, why in broken.items():
        console.note(f"{name} {why}: it is made again.")
    again: dict[int, ChunkPlan] = {}
    versions = library_versions()
    for number, (chunk, table) in enumerate(zip(before.chunks, read_in_pieces(photos, _sizes(before)), strict=True)):
        reasons = table["reason"].to_pylist()
        stayed_away = sum(reason in _TRY_AGAIN for reason in reasons)
        if chunk.shard not in broken and not stayed_away:
            continue
        if stayed_away:
            console.note(f"{stayed_away:,} photographs of {chunk.shard or f'chunk {number}'} are tried again.")
        twins = [reason == "duplicate" for reason in reasons]
        gone = catalogue.ask_again(number, zip(table["path"].to_pylist(), twins, strict=True))
        if gone:
            raise DatasetError(
                f"{shown(gone)} is gone from the source, and {chunk.shard or out} can't be made without it."
            )
        items = list(catalogue.photos_again(number, chunk.split))
        again[number] = plan_chunk(number, chunk.split, items, settings, versions)
    return Plan(
        where=where,
        marks=before.source,
        before=before,
        settings=settings,
        versions=versions,
        found=before.totals.photos,
        gone=(0, ""),
        ignored=before.totals.ignored,
        data_set=before.data_set,
        twins=0,
        chunks=(),
        catalogue=catalogue,
        attributes=attributes.names if attributes else (),
        again=again,
    )


def _sizes(before: DatasetInfo) -> list[int]:
    return [chunk.photos for chunk in before.chunks]


def _broken(home: Home, entry: ShardEntry) -> str:
    path = home.folder / entry.name
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry.bytes or home.sha256(path) != entry.sha256:
        return "was altered"
    return ""


def tell_other_bytes(before: DatasetInfo, after: DatasetInfo, plan: Plan, console: Console) -> None:
    """Warns of shards that did not come out as they were, though all their photographs could be read then."""
    sums = {entry.name: entry.sha256 for entry in after.shards}
    then = {entry.name: entry.sha256 for entry in before.shards}
    for number in plan.again:
        old, new = before.chunks[number].shard, after.chunks[number].shard
        if old and old == new and then[old] != sums[new] and before.totals.rejected == after.totals.rejected:
            console.warn(f"{new} has other bytes than it had: another version, another CPU, or altered photographs.")
