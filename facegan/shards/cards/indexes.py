"""Lists of shards as wids and timm read them."""

from __future__ import annotations

from typing import Any

from facegan.shards.layout import DatasetInfo


def wids_index(info: DatasetInfo, split: str) -> dict[str, Any]:
    """index-SPLIT.json: wids-shard-index-v1, its URLs relative to the index itself."""
    return {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": f"faces-{split}",
        "shardlist": [
            {"url": shard.name, "nsamples": shard.samples, "filesize": shard.bytes, "md5sum": shard.md5}
            for shard in info.split_shards(split)
        ],
    }


def timm_info(info: DatasetInfo) -> dict[str, Any]:
    """_info.json. Without ``alt_label``, the field of KEY.json that holds the class, timm reads nothing in silence."""
    splits = {}
    for split in info.splits:
        shards = info.split_shards(split)
        splits[split] = {
            "name": split,
            "filenames": [shard.name for shard in shards],
            "shard_lengths": [shard.samples for shard in shards],
            "num_samples": sum(shard.samples for shard in shards),
            "alt_label": "label",
        }
    return {"splits": splits}
