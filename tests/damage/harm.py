"""Damage to files by their kind: bytes as a disk loses them, and values that no writer produces."""

from __future__ import annotations

import copy
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Harm = Callable[[bytes, Random], bytes]

DEEP = 100_000
NESTED = json.loads("[" * 400 + "]" * 400)
NASTY: tuple[Any, ...] = (
    None, 0, 3, -1, 2.5, True, "", "x", "\0", "\udcff", "a" * 5_000, "../../x", [], [3], [[]], {}, {"a": {}}, NESTED,
    1e308, 10**30, 10**400, float("nan"), float("-inf"), ["a", "b"], {"generator": "x"},
)  # fmt: skip
_NO_JSON = (
    b"", b"{", b"null", b"3", b"[]", b"{}", b'"x"', b"\xff\xfe{", b"\0" * 64, b"9" * 5_000, b"NaN",
    b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP,
)  # fmt: skip
_MARK = "@@damaged@@"
_RAW = (b"9" * 5_000, b"-" + b"9" * 4_000, b"1e400", b"NaN", b"-Infinity", b"[" * DEEP + b"]" * DEEP, b'"\\ud800"')
_OFFSETS = ([-8, 0], [0, 1 << 20], [8, 0], [0, 2**63], [0, 8], [0, 0], [1.5, 3], "x")
_DTYPES = ("F64", "F16", "BF16", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "x", 3)
_SHAPES = (
    "()", "(-1,)", "(3, -4)", "('x',)", "(2.5,)", f"({2**70},)", "(1, 2, 3)", f"({'9' * 5_000},)", "(0, 4)",
)  # fmt: skip
_KINDS = ("'|O'", "'<f8'", "'<U3'", "'<M8[s]'", "'x'", "3", "[('a', '<i4')]", "'|V0'", "''", "'<c16'", "'>f2'")
_HEADS = ("", "{", "(" * 9_000, "'", '"""', "{'descr': ", "\0", "1" * 5_000, "-" * 20_000 + "1", "[" * 60_000)
_TOML = (
    b"[" * 3_000 + b"]" * 3_000, b"{a=" * 2_000 + b"1" + b"}" * 2_000, b"9" * 5_000, b"nan", b"inf", b"[]", b"{}",
    b"1979-05-27", b'"\\u0000"', b"true", b'""', b"-1", b"a." * 2_000 + b"a", b'[["x"]]', b"1e400",
)  # fmt: skip


def harm_bytes(data: bytes, random: Random) -> bytes:
    """Bits flipped, a part missing, more after the end, or something else."""
    way, at = random.randrange(6), random.randrange(len(data) + 1)
    if way == 0:
        return data[:at]
    if way == 1:
        return data + random.randbytes(random.choice((1, 100, 5_000)))
    if way == 2:
        return random.choice((b"", b"\0" * len(data), random.randbytes(200), data[at:]))
    if way == 3:
        size = random.randrange(1, 64)
        return data[:at] + random.randbytes(size) + data[at + size :]
    flipped, end = bytearray(data), min(len(data), 512)  # formats keep their headers at both ends
    for _ in range(random.choice((1, 1, 8))):
        place = random.choice((random.randrange(len(data)), random.randrange(end), -1 - random.randrange(end)))
        flipped[place] ^= 1 << random.randrange(8)
    return bytes(flipped)


def harm_json(data: bytes, random: Random) -> bytes:
    """Not JSON, or JSON in which one value is another, is missing, occurs twice, or is one that no writer produces."""
    way = random.randrange(8)
    if way == 0:
        return random.choice(_NO_JSON)
    if way == 1:
        return harm_bytes(data, random)
    whole = json.loads(data)
    places = list(_places(whole))
    if not places:
        return json.dumps(random.choice(NASTY)).encode()
    at = random.choice(places)
    part = whole
    for key in at[:-1]:
        part = part[key]
    if way == 2:
        del part[at[-1]]
    elif way == 3 and isinstance(part, dict):
        part[random.choice(("", "x", "__class__", "sha256"))] = part.pop(at[-1])
    elif way == 4:
        part[at[-1]] = _MARK
        return json.dumps(whole).encode().replace(json.dumps(_MARK).encode(), random.choice(_RAW))
    elif way == 5 and isinstance(part, dict):
        part[_MARK] = random.choice(NASTY)
        return json.dumps(whole).replace(f'"{_MARK}"', json.dumps(at[-1])).encode()
    else:
        part[at[-1]] = random.choice(NASTY)
    return json.dumps(whole).encode()


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of all values inside a value."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*at, key)
            yield from _places(part, (*at, key))


def harm_lines(data: bytes, random: Random) -> bytes:
    """JSON, an object a line."""
    lines = data.splitlines()
    if random.randrange(5) == 0 or not lines:
        return harm_bytes(data, random)
    at = random.randrange(len(lines))
    lines[at] = harm_json(lines[at], random).replace(b"\n", b" ")
    return b"\n".join(lines) + b"\n"


def harm_tensors(data: bytes, random: Random) -> bytes:
    """safetensors: offsets that overlap, run backwards or past the end; other shapes, dtypes, names and metadata."""
    (length,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    name = random.choice([name for name in header if name != "__metadata__"])
    one, about = header[name], header.get("__metadata__", {})
    way = random.choice(("bytes", "data_offsets", "shape", "dtype", "name", "head", "metadata", "facegan"))
    if way == "bytes":
        return harm_bytes(data, random)
    if way == "head":
        text = json.dumps(header).encode()
        head = random.choice((b"", b"{}", b" ", b"[" * DEEP, b'{"a":' * DEEP, text[:-5], b"\xff", b"null"))
        return struct.pack("<Q", random.choice((len(head), 2**62, 0))) + head + body
    if way == "name":
        header[random.choice(("", "x", "\0", name + ".x"))] = header.pop(name)
    elif way == "facegan" and "facegan" in about:
        about["facegan"] = harm_json(about["facegan"].encode(), random).decode("utf-8", "replace")
    elif way in one:
        shapes = ([], [-1], [2**62, 4], [0], one["shape"][::-1], [*one["shape"], 1], "x", [1.5])
        one[way] = random.choice({"data_offsets": _OFFSETS, "shape": shapes, "dtype": _DTYPES}[way])
    else:
        header["__metadata__"] = copy.deepcopy(random.choice(NASTY))
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + body


def harm_npy(data: bytes, random: Random) -> bytes:
    """A header that does not end, or describes another array."""
    if random.randrange(4) == 0 or not data.startswith(b"\x93NUMPY\x01"):
        return harm_bytes(data, random)
    (length,) = struct.unpack_from("<H", data, 8)
    head, body = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    order = random.choice(("'fortran_order': True", "'fortran_order': 7", "'x': 1"))
    head = random.choice(
        (
            head,
            head[: random.randrange(len(head))],
            random.choice(_HEADS),
            re.sub(r"\([^)]*\)", random.choice(_SHAPES), head, count=1),
            re.sub(r"'descr': '[^']*'", f"'descr': {random.choice(_KINDS)}", head, count=1),
            head.replace("'fortran_order': False", order),
        )
    )
    raw = head.encode("latin-1")[:65_535]
    length = random.choice((len(raw), len(raw), len(raw), 65_535))
    return data[:8] + struct.pack("<H", length) + raw + random.choice((body, body[: len(body) // 2]))


def harm_npz(data: bytes, random: Random) -> bytes:
    """One array is damaged, renamed or missing; or the archive itself is damaged."""
    way = random.randrange(6)
    if way == 0:
        return harm_bytes(data, random)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(list(members))
    member = members.pop(name)
    if way == 1:
        members[random.choice(("x", "x.npy", "../x.npy", "a/" * 200 + "x"))] = member
    elif way > 2:
        members[name] = harm_npy(member, random)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for other, its in members.items():
            archive.writestr(other, its)
    return file.getvalue()


def harm_text(data: bytes, random: Random) -> bytes:
    """Lines and words of a text that people write (TOML, tables)."""
    way, lines = random.randrange(5), data.splitlines()
    if way == 0 or not lines:
        return harm_bytes(data, random)
    at = random.randrange(len(lines))
    if way == 1:
        odd = (b"", b"[", b"x", b"= 3", b"\xff\xfe", b"[[train]]", b"[a.b.c]", b"\0", lines[at] * 2)
        lines[at] = random.choice(odd)
    elif way == 2:
        lines.insert(at, lines[random.randrange(len(lines))])
    else:
        lines[at] = (lines[at].partition(b"=")[0].strip() or b"x") + b" = " + random.choice(_TOML)
    return b"\n".join(lines) + b"\n"
