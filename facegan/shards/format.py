"""What a dataset on disk is made of: names, keys, the sample's JSON, dataset.json."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

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


# What KEY.json has to be: every field there, of one type, never null; and what it says of its key.

_FURTHER_FACE = re.compile(r"=f([0-9]{1,9})$")


def _written_as_float(value: Any) -> Any:
    if type(value) is not float:  # readers that infer a column's type from the first samples fail on 1 after 0.5
        raise ValueError("it has to be written as a decimal number")
    return value


def _entries(count: int) -> BeforeValidator:
    def check(values: Any) -> Any:
        if isinstance(values, list) and len(values) not in (0, count):
            raise ValueError(f"it has {len(values)} entries, neither {count} nor none")
        return values

    return BeforeValidator(check)


_Whole = Annotated[int, Field(strict=True)]
_Pixels = Annotated[int, Field(strict=True, gt=0)]
_Real = Annotated[float, Field(strict=True, allow_inf_nan=False), BeforeValidator(_written_as_float)]
_Point = Annotated[list[_Real], Field(min_length=2, max_length=2)]


class SampleMeta(BaseModel):
    """KEY.json. Further fields (attributes of the source) are allowed, null is not."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    width: _Pixels
    height: _Pixels
    box: Annotated[list[_Real], _entries(4)]
    keypoints: Annotated[list[_Point], _entries(6)]
    score: Annotated[_Real, Field(ge=0, le=1)]
    quad: Annotated[list[_Point], Field(min_length=4, max_length=4)]
    turned: Literal[0, 90, 180, 270]
    label: _Whole

    @property
    def further(self) -> dict[str, str]:
        """Names and types of further fields: the same in every sample of a dataset."""
        return {name: _kind(value) for name, value in sorted((self.model_extra or {}).items())}


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_kind(value[name])}" for name in sorted(value)) + "}"
    return type(value).__name__


def meta_problem(error: ValidationError) -> str:
    """What is wrong with a sample's JSON, in a few words."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"'{where}' is missing"
    said = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"'{where}' is {first['input']!r:.60}: {said}" if where else said


def holds_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(holds_null, value.values()))
    return value is None or (isinstance(value, list) and any(map(holds_null, value)))


def key_agrees(key: str, path: str) -> bool:
    r"""Is ``key`` that of a face of the photograph at ``path``?

    A path whose bytes are no UTF-8 has ``\xNN`` in it; then the key is read back, unless it was cut.
    """
    further = _FURTHER_FACE.search(key)
    if sample_key(path.encode("utf-8", "surrogatepass"), int(further[1]) if further else 0) == key:
        return True
    try:
        return "\\x" in path and readable_path(key_path(key)) == path
    except ValueError:
        return True  # cut: nobody can tell
