"""The dataset format: file names, sample keys, KEY.json and dataset.json."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from facegan.errors import DamagedFile, DatasetError, one_of, suggest
from facegan.files import parse_json, parsing

DATASET_FILE = "dataset.json"
PHOTOS_FILE = "photos.parquet"
DETECTIONS_FILE = "detections.parquet"
PREVIEW_FILE = "preview.png"
STATE_FOLDER = ".facegan"
GENERATED = "generated"  # entry of dataset.json's settings that describes the generator of a dataset of samples

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".mpo", ".avif", ".heic", ".heif"}
)
IMAGE_FORMATS = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}  # of samples; MIME types
SPLITS = ("train", "val", "test")
SHARD_NAME = re.compile(r"(train|val|test)-\d{6,}\.tar")
CARD_NAME = re.compile(r"README\.md|croissant\.json|_info\.json|index-(train|val|test)\.json")

# Why a photograph was rejected: the values of `reason` in photos.parquet, and their meaning.
REASONS = {
    "unreadable": "not an image, or damaged",
    "truncated": "the file ends too early",
    "too_large": "above the limit of pixels or bytes",
    "too_small": "a face of too few pixels",
    "no_face": "no face found",
    "low_score": "a face found, but its score is too low",
    "bad_keypoints": "eyes, nose and mouth are out of order",
    "several_faces": "more than one face, with --faces only",
    "off_edge": "too much of the crop is outside the photograph",
    "blurry": "the face is blurred",
    "dark": "the face is too dark",
    "turned_away": "the face looks too far aside",
    "duplicate": "the same file as another photograph",
    "near_duplicate": "nearly the same face as one that is kept, with --dedup near",
    "unreachable": "the photograph could not be fetched",
    "crashed": "a fault of the program",
}

_MAX_SHARD_BYTES = 1 << 42  # 4 TiB
_SIZES = range(1, 4097)  # of a face, in pixels
_SUFFIX_BYTES = frozenset(suffix.encode() for suffix in PHOTO_SUFFIXES)
_KEY_ESCAPED = re.compile(rb"[^A-Za-z0-9_-]", re.DOTALL)
_KEY_LIMIT, _KEY_CUT = 200, 160
_FURTHER_FACE = re.compile(r"=f([0-9]{1,9})$")
_JSON = json.JSONEncoder(ensure_ascii=False)


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.tar"


def sample_key(path: bytes, face: int = 0) -> str:
    """The key of a photograph's sample.

    Letters, digits, ``_`` and ``-`` are kept, any other byte becomes ``=XX``. A final ``.jpg`` is dropped unless the
    rest would look like another photograph (``x.png.jpg`` and ``x.png``). Face n > 0 of a photo ends in ``=fn``. Keys
    over 200 bytes are cut to 160 and end in ``=h`` and 16 hexadecimal digits of the path's SHA-256.
    """
    stem = path.removesuffix(b".jpg")
    kept = path if has_photo_suffix(stem) or stem[-1:] in (b"", b"/") else stem
    key = _KEY_ESCAPED.sub(lambda match: b"=%02X" % match[0][0], kept).decode()
    further = f"=f{face}" if face else ""
    if len(key) + len(further) > _KEY_LIMIT:
        key = re.sub(r"=.?$", "", key[:_KEY_CUT]) + "=h" + hashlib.sha256(path).hexdigest()[:16]
    return key + further


def key_path(key: str) -> bytes:
    """The inverse of `sample_key`. Raises ValueError if the key was cut or is invalid."""
    bare = re.sub(r"=f\d+$", "", key)
    if re.search(r"=h[0-9a-f]{16}$", bare) or not re.fullmatch(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})*", bare):
        raise ValueError(f"{key!r} does not contain a complete path")
    path = re.sub(rb"=([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), bare.encode())
    return path if has_photo_suffix(path) else path + b".jpg"


def key_agrees(key: str, path: str) -> bool:
    r"""Whether ``key`` belongs to the photograph at ``path``, a path as `readable_path` writes it."""
    further = _FURTHER_FACE.search(key)
    if sample_key(path.encode("utf-8", "surrogatepass"), int(further[1]) if further else 0) == key:
        return True
    try:
        return "\\x" in path and readable_path(key_path(key)) == path
    except ValueError:
        return True  # the key was cut, so the path's undecodable bytes are unknown


def has_photo_suffix(path: bytes) -> bool:
    return path[path.rfind(b".") :].lower() in _SUFFIX_BYTES


def readable_path(path: bytes) -> str:
    r"""A path as text, undecodable bytes as ``\xNN``."""
    return path.decode("utf-8", "backslashreplace")


# KEY.json

Attributes = dict[str, int | float]


@dataclass(frozen=True)
class SampleRecord:
    """KEY.json to write; `SampleMeta` describes the fields. Either all samples of a dataset have attributes or none."""

    path: str
    sha256: str
    width: int
    height: int
    box: Sequence[float] = ()
    keypoints: Sequence[Sequence[float]] = ()
    score: float = 0.0
    quad: Sequence[Sequence[float]] = ()
    turned: int = 0
    label: int = 0
    attributes: Attributes | None = None

    def to_json(self) -> bytes:
        """Every field is present and always has one type: readers infer their schema from the first few samples."""
        fields = dict(vars(self))
        fields["box"], fields["score"] = list(map(float, self.box)), float(self.score)
        for name in ("keypoints", "quad"):
            fields[name] = [[float(x), float(y)] for x, y in fields[name]]
        if not self.attributes:
            del fields["attributes"]
        return _JSON.encode(fields).encode()


def _written_as_float(value: Any) -> Any:
    if type(value) is not float:  # readers that infer a column's type from the first samples fail on 1 after 0.5
        raise ValueError("it must be written as a decimal number")
    return value


def _entries(count: int) -> BeforeValidator:
    def check(values: Any) -> Any:
        if isinstance(values, list) and len(values) not in (0, count):
            raise ValueError(f"it has {len(values)} entries instead of {count} or none")
        return values

    return BeforeValidator(check)


_Pixels = Annotated[int, Field(strict=True, gt=0)]
_Real = Annotated[float, Field(strict=True, allow_inf_nan=False), BeforeValidator(_written_as_float)]
_Point = Annotated[list[_Real], Field(min_length=2, max_length=2)]


def with_attributes(meta: bytes, attributes: Attributes) -> bytes:
    """KEY.json with other attributes. Raises DamagedFile."""
    fields = parse_json(meta, "a sample's JSON")
    return _JSON.encode({**fields, "attributes": attributes}).encode()


class SampleMeta(BaseModel):
    """KEY.json as read, and the meaning of its fields. Further fields (attributes) are allowed, null is not."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    path: str = Field(min_length=1, description="the photograph, relative to the source folder")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the photograph's file")
    width: _Pixels = Field(description="of the upright photograph, in pixels")
    height: _Pixels = Field(description="of the upright photograph, in pixels")
    box: Annotated[list[_Real], _entries(4)] = Field(
        description="the detector's box [x, y, width, height], in pixels of the photograph; empty without a detector"
    )
    keypoints: Annotated[list[_Point], _entries(6)] = Field(
        description="six [x, y]: image-left eye, image-right eye, nose, mouth, image-left ear, image-right ear"
    )
    score: Annotated[_Real, Field(ge=0, le=1)] = Field(description="the detector's score, 0 to 1")
    quad: Annotated[list[_Point], Field(min_length=4, max_length=4)] = Field(
        description="the crop's corners [x, y]: top left, bottom left, bottom right, top right; pixel centres at .5"
    )
    turned: Literal[0, 90, 180, 270] = Field(
        description="degrees by which the photograph was rotated clockwise to find the face: 0, 90, 180 or 270"
    )
    label: Annotated[int, Field(strict=True)] = Field(description="the class; 0 where the photographs have none")

    @model_validator(mode="after")
    def _refuse_null(self) -> Self:
        if _holds_null(self.model_extra):
            raise ValueError("a field is null")
        return self

    @property
    def further(self) -> dict[str, str]:
        """Names and types of further fields: the same in every sample of a dataset."""
        return {name: _kind(value) for name, value in sorted((self.model_extra or {}).items())}


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_kind(value[name])}" for name in sorted(value)) + "}"
    return type(value).__name__


def meta_problem(error: ValidationError) -> str:
    """The first problem of a sample's JSON, in a few words."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"'{where}' is missing"
    rule = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"'{where}' is {first['input']!r:.60}: {rule}" if where else rule


def _holds_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_null, value.values()))
    return value is None or (isinstance(value, list) and any(map(_holds_null, value)))


# dataset.json


_Split = Literal["train", "val", "test"]
_SHA256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardEntry(Record):
    name: str = Field(pattern=rf"^{SHARD_NAME.pattern}$")
    split: _Split
    samples: int = Field(gt=0, le=_MAX_SHARD_BYTES)
    bytes: int = Field(gt=0, le=_MAX_SHARD_BYTES)
    sha256: _SHA256
    md5: str = Field(pattern=r"^[0-9a-f]{32}$")


class ChunkEntry(Record):
    """How many consecutive photographs of photos.parquet went into one shard; "" if none was kept."""

    split: _Split
    photos: int = Field(gt=0)
    shard: str = Field(pattern=rf"^({SHARD_NAME.pattern})?$")


class Totals(Record):
    photos: int
    kept: int
    rejected: dict[str, int]
    ignored: dict[str, int]
    faces: int
    bytes: int


class DatasetInfo(Record):
    """dataset.json. It is written last: if it exists, the dataset is complete."""

    format: Literal[1] = 1
    data_set: str = ""  # name of the known data set of the photographs (`facegan.manifests`), or ""
    source: tuple[str, ...] = ()  # digests of the tables or arrays that photographs without sizes came from
    settings: dict[str, Any]
    versions: dict[str, str]
    fingerprint: str  # of the photographs' paths and sizes
    totals: Totals
    shards: tuple[ShardEntry, ...]
    chunks: tuple[ChunkEntry, ...] = ()
    photos_sha256: _SHA256
    detections_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")  # empty if no face was looked for

    def split_shards(self, split: str) -> list[ShardEntry]:
        return [shard for shard in self.shards if shard.split == split]

    @property
    def splits(self) -> list[str]:
        return [split for split in SPLITS if self.split_shards(split)]

    def faces_fingerprints(self, split: str) -> list[str]:
        """Of a split's first shard, of its first two, …, and of all its faces, as in run.json: of the shards' bytes,
        and of the channels unless they are three: a WebP does not say that it is grey."""
        found, digest, end = list[str](), hashlib.sha256(), "" if self.channels == 3 else f" {self.channels}"
        for entry in self.split_shards(split):
            digest.update(entry.sha256.encode())
            (whole := digest.copy()).update(end.encode())
            found.append(whole.hexdigest())
        return found

    @property
    def is_generated(self) -> bool:
        """Whether a generator drew the faces."""
        return bool(self.settings.get(GENERATED))

    @property
    def size(self) -> int:
        """Of every face, in pixels."""
        return self._setting("size", _SIZES)

    @property
    def image_format(self) -> str:
        return self._setting("format", tuple(IMAGE_FORMATS))

    @property
    def channels(self) -> int:
        """Of every face: 3 (RGB) or 1 (grey). Datasets written before this setting existed have 3."""
        return self._setting("channels", (1, 3), 3)

    def _setting(self, name: str, valid: Sequence[Any], default: Any = None) -> Any:
        """Raises DatasetError if the setting has another value or type."""
        value = self.settings.get(name, default)
        if type(value) is not type(valid[0]) or value not in valid:
            rule = f"{valid[0]} to {valid[-1]}" if isinstance(valid, range) else one_of(valid)
            raise DatasetError(f"{DATASET_FILE} has an invalid setting: {name} is {value!r:.40}, not {rule}.")
        return value

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises DatasetError if dataset.json is missing or invalid."""
        path = folder / DATASET_FILE
        if not folder.is_dir():
            near = suggest(folder.name, (sibling.name for sibling in folder.parent.glob("*/")))
            raise DatasetError(f"There is no folder {folder}.{near} Make a dataset with: facegan prep PHOTOS {folder}")
        try:
            return cls.parse(path.read_bytes(), str(path))
        except FileNotFoundError:
            started = (folder / STATE_FOLDER).is_dir()
            why = "its prep is unfinished. Start it again" if started else "it is not a dataset of facegan prep"
            raise DatasetError(f"{folder} has no {DATASET_FILE}: {why}.") from None

    @classmethod
    def parse(cls, data: bytes, path: str) -> Self:
        """The dataset.json at ``path`` from its bytes. Raises DatasetError if they are invalid."""
        try:
            with parsing(path):
                return cls.model_validate_json(data)
        except DamagedFile as error:
            raise DatasetError(
                f"{path} is damaged or of another version of facegan ({error.why}).\n"
                "Run facegan prep with --force to rebuild it."
            ) from None
