"""What a dataset on disk is made of: names, keys, the sample's JSON, dataset.json."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from facegan.errors import DamagedFile, DatasetError, suggest
from facegan.files import parsing

DATASET_FILE = "dataset.json"
PHOTOS_FILE = "photos.parquet"
PREVIEW_FILE = "preview.png"
STATE_FOLDER = ".facegan"
GENERATED = (
    "generated"  # the entry in dataset.json's settings that tells what drew the faces, where they are no photographs'
)

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".mpo", ".avif", ".heic", ".heif"}
)
IMAGE_FORMATS = ("png", "jpg", "webp")
SPLITS = ("train", "val", "test")
REASONS = (
    "unreadable", "truncated", "too_large", "too_small", "no_face", "low_score", "bad_keypoints", "several_faces",
    "off_edge", "blurry", "duplicate", "unreachable", "crashed",
)  # fmt: skip

_PHOTO_SUFFIXES = frozenset(suffix.encode() for suffix in PHOTO_SUFFIXES)
_MOST_SHARD_BYTES = 1 << 42  # 4 TiB: more is a mistake, or meant to take all memory

_KEY_ESCAPED = re.compile(rb"[^A-Za-z0-9_-]", re.DOTALL)
_KEY_LIMIT = 200
_KEY_KEPT = 160
_JSON = json.JSONEncoder(ensure_ascii=False)


def sample_key(path: bytes, face: int = 0) -> str:
    """A photograph's path → the key of its sample.

    Letters, digits, ``_`` and ``-`` stand, any other byte is ``=XX``; a final ``.jpg`` is dropped, unless what is left
    would look like another photograph (``x.png.jpg`` beside ``x.png``). Face n > 0 of a photo ends in ``=fn``. Keys
    over 200 bytes are cut to 160 and end in ``=h`` and 16 hexadecimal digits of the path's SHA-256.
    """
    stem = path.removesuffix(b".jpg")
    kept = path if has_photo_suffix(stem) or stem[-1:] in (b"", b"/") else stem
    key = _KEY_ESCAPED.sub(lambda match: b"=%02X" % match[0][0], kept).decode()
    further = f"=f{face}" if face else ""
    if len(key) + len(further) > _KEY_LIMIT:
        key = re.sub(r"=.?$", "", key[:_KEY_KEPT]) + "=h" + hashlib.sha256(path).hexdigest()[:16]
    return key + further


def key_path(key: str) -> bytes:
    """The path that `sample_key` made this key from.

    Raises:
        ValueError: the key was cut (see `sample_key`), or is none of ours.
    """
    bare = re.sub(r"=f\d+$", "", key)
    if re.search(r"=h[0-9a-f]{16}$", bare) or not re.fullmatch(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})*", bare):
        raise ValueError(f"{key!r} holds no whole path")
    path = re.sub(rb"=([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), bare.encode())
    return path if has_photo_suffix(path) else path + b".jpg"


def has_photo_suffix(path: bytes) -> bool:
    return path[path.rfind(b".") :].lower() in _PHOTO_SUFFIXES


def readable_path(path: bytes) -> str:
    r"""A path as text, undecodable bytes as ``\xNN``."""
    return path.decode("utf-8", "backslashreplace")


def sample_json(
    *,
    path: str,
    sha256: str,
    width: int,
    height: int,
    box: list[float],
    keypoints: list[list[float]],
    score: float,
    quad: list[list[float]],
    turned: int = 0,
    label: int = 0,
    attributes: dict[str, int] | None = None,
) -> bytes:
    """KEY.json. Every field is there, always of one type: readers infer their schema from the first few samples.

    ``attributes`` is there in all samples of a dataset, or in none.
    """
    return _JSON.encode(
        {
            "path": path,
            "sha256": sha256,
            "width": width,
            "height": height,
            "box": [float(v) for v in box],
            "keypoints": [[float(v) for v in point] for point in keypoints],
            "score": float(score),
            "quad": [[float(v) for v in point] for point in quad],
            "turned": turned,
            "label": label,
            **({"attributes": attributes} if attributes else {}),
        }
    ).encode()


SHARD_NAME = re.compile(r"(train|val|test)-\d{6,}\.tar")


# What other tools read beside the shards; `facegan.shards.cards` writes them.
CARD_NAME = re.compile(r"README\.md|croissant\.json|_info\.json|index-(train|val|test)\.json")


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.tar"


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardEntry(Record):
    """One shard, as dataset.json lists it."""

    name: str = Field(pattern=rf"^{SHARD_NAME.pattern}$")
    split: Literal["train", "val", "test"]
    samples: int = Field(gt=0, le=_MOST_SHARD_BYTES)
    bytes: int = Field(gt=0, le=_MOST_SHARD_BYTES)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    md5: str = Field(pattern=r"^[0-9a-f]{32}$")


class ChunkEntry(Record):
    """How many photographs, one after the other in photos.parquet, were cut into one shard; "" where none was kept."""

    split: Literal["train", "val", "test"]
    photos: int = Field(gt=0)
    shard: str


class Totals(Record):
    photos: int
    kept: int
    rejected: dict[str, int]
    ignored: dict[str, int]
    faces: int
    bytes: int


class DatasetInfo(Record):
    """dataset.json: where it stands, the dataset is whole.

    Attributes:
        data_set: the name of the known data set that the photographs are of (`facegan.manifests`), or nothing.
    """

    format: Literal[1] = 1
    data_set: str = ""
    source: tuple[str, ...] = ()  # digests of the tables or arrays that photographs without sizes came from
    settings: dict[str, Any]
    versions: dict[str, str]
    fingerprint: str
    totals: Totals
    shards: tuple[ShardEntry, ...]
    chunks: tuple[ChunkEntry, ...] = ()
    photos_sha256: str

    def split_shards(self, split: str) -> list[ShardEntry]:
        return [shard for shard in self.shards if shard.split == split]

    @property
    def splits(self) -> list[str]:
        return [split for split in SPLITS if self.split_shards(split)]

    @property
    def is_generated(self) -> bool:
        """A generator drew the faces; no photograph shows them."""
        return bool(self.settings.get(GENERATED))

    @property
    def channels(self) -> int:
        """Of every face: 3 (RGB), or 1 (grey). Datasets that are older than this setting do not say, and have 3.

        Raises:
            DatasetError: it names others.
        """
        channels = self.settings.get("channels", 3)
        if type(channels) is not int or channels not in (1, 3):
            raise DatasetError(f"{DATASET_FILE} says that faces have {channels!r} channels: 1 or 3 can be.")
        return channels

    @classmethod
    def read(cls, folder: Path) -> Self:
        """dataset.json of a dataset.

        Raises:
            DatasetError: there is none, or it can't be read.
        """
        path = folder / DATASET_FILE
        if not folder.is_dir():
            near = suggest(folder.name, _folders_beside(folder))
            raise DatasetError(f"There is no folder {folder}.{near} Make a dataset with: facegan prep PHOTOS {folder}")
        try:
            return cls.parse(path.read_bytes(), str(path))
        except FileNotFoundError:
            started = (folder / STATE_FOLDER).is_dir()
            why = "its facegan prep has not finished: start it again" if started else "it is no dataset of facegan prep"
            raise DatasetError(f"{folder} has no {DATASET_FILE}: {why}.") from None

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """dataset.json from its bytes; ``where`` it lies.

        Raises:
            DatasetError: it can't be read.
        """
        try:
            with parsing(where):
                return cls.model_validate_json(data)
        except DamagedFile as error:
            if other := _other_format(data):
                raise DatasetError(
                    f"{where} is of format {other}, and this facegan reads format 1.\n"
                    "Use the facegan that wrote it, or make the dataset anew with: facegan prep … --force"
                ) from None
            raise DatasetError(
                f"{where} is damaged or of another version ({error.why}).\nIts facegan prep makes it anew with --force."
            ) from None


def _other_format(data: bytes) -> str:
    """The version that a dataset.json tells of, where it is another than ours."""
    try:
        with parsing(DATASET_FILE):
            told = json.loads(data).get("format", 1)
    except DamagedFile:
        return ""
    return "" if told == 1 else f"{told!r:.20}"


def _folders_beside(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.parent.iterdir() if path.is_dir()]
    except OSError:
        return []
