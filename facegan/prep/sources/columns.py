"""Which columns of a Parquet file say what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from facegan.console import shown
from facegan.errors import SourceError

_URL_COLUMNS = ("url", "URL", "image_url", "img_url")
_NAME_COLUMNS = ("path", "file_name", "filename", "key", "__key__", "name")
_LABEL_COLUMNS = ("label", "labels", "class", "fine_label")


@dataclass(frozen=True)
class Columns:
    """One of ``image`` and ``url`` is set; ``nested`` is Hugging Face's {bytes, path}."""

    image: str = ""
    nested: bool = False
    url: str = ""
    name: str = ""
    label: str = ""

    @property
    def data(self) -> str:
        return f"{self.image}.bytes" if self.nested else self.image or self.url


def find_columns(schema: pa.Schema, where: str) -> Columns:
    """
    Raises:
        SourceError: there is neither a column of images nor one of URLs.
    """

    def first(names: tuple[str, ...], fits: Any) -> str:
        return next((name for name in names if name in schema.names and fits(schema.field(name).type)), "")

    def is_binary(kind: pa.DataType) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    def is_text(kind: pa.DataType) -> bool:
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)

    label = first(_LABEL_COLUMNS, pa.types.is_integer)
    for field in schema:
        if pa.types.is_struct(field.type) and {"bytes", "path"} <= {inner.name for inner in field.type}:
            return Columns(image=field.name, nested=True, name=f"{field.name}.path", label=label)
    name = first(_NAME_COLUMNS, is_text)
    for field in schema:
        if is_binary(field.type):
            return Columns(image=field.name, name=name, label=label)
    url = first(_URL_COLUMNS, is_text)
    if url:
        return Columns(url=url, name=name, label=label)
    raise SourceError(
        f"{where} has no column of images (binary, or a struct of bytes and path) and none of URLs "
        f"({', '.join(_URL_COLUMNS)}); it has {shown(', '.join(schema.names))}."
    )
