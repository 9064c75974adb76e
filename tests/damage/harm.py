"""Damage to files by their kind: bytes as a disk loses them, and values as nobody ever wrote them."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

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


_SHAPES = (
    "()", "(-1,)", "(3, -4)", "('x',)", "(2.5,)", f"({2**70},)", "(1, 2, 3)", f"({'9' * 5_000},)", "(0, 4)",
)  # fmt: skip
_KINDS = ("'|O'", "'<f8'", "'<U3'", "'<M8[s]'", "'x'", "3", "[('a', '<i4')]", "'|V0'", "''", "'<c16'", "'>f2'")
_TOML = (
    b"[" * 3_000 + b"]" * 3_000, b"{a=" * 2_000 + b"1" + b"}" * 2_000, b"9" * 5_000, b"nan", b"inf", b"[]", b"{}",
    b"1979-05-27", b'"\\u0000"', b"true", b'""', b"-1", b"a." * 2_000 + b"a", b'[["x"]]', b"1e400",
)  # fmt: skip


def harm_bytes(data: bytes, random: Random) -> bytes:
    """Bits turned, a part gone, more behind the end, or something else altogether."""
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
    turned, end = bytearray(data), min(len(data), 512)  # formats keep what they are at both ends
    for _ in range(random.choice((1, 1, 8))):
        place = random.choice((random.randrange(len(data)), random.randrange(end), -1 - random.randrange(end)))
        turned[place] ^= 1 << random.randrange(8)
    return bytes(turned)


def harm_value(value: Any, random: Random) -> bytes:
    """JSON in which one value is another, is gone, comes twice, or is what no writer of JSON gives."""
    places = list(_places(value))
    if not places:
        return json.dumps(random.choice(NASTY)).encode()
    at, way = random.choice(places), random.randrange(8)
    whole = json.loads(json.dumps(value))
    part = whole
    for key in at[:-1]:
        part = part[key]
    if way == 0:
        del part[at[-1]]
    elif way == 1 and isinstance(part, dict):
        part[random.choice(("", "x", "__class__", "sha256"))] = part.pop(at[-1])
    elif way == 2:
        part[at[-1]] = _MARK
        return json.dumps(whole).encode().replace(json.dumps(_MARK).encode(), random.choice(_RAW))
    elif way == 3 and isinstance(part, dict):
        text = json.dumps({**whole, _MARK: 0}) if isinstance(whole, dict) else json.dumps(whole)
        twice = f"{json.dumps(at[0])}: {json.dumps(random.choice(NASTY))}"
        return text.replace(f'"{_MARK}": 0', twice).encode()
    else:
        part[at[-1]] = random.choice(NASTY)
    return json.dumps(whole).encode()


def harm_json(data: bytes, random: Random) -> bytes:
    way = random.randrange(6)
    if way == 0:
        return random.choice(_NO_JSON)
    return harm_bytes(data, random) if way == 1 else harm_value(json.loads(data), random)


def harm_lines(data: bytes, random: Random) -> bytes:
    """JSON, an object a line."""
    lines = data.splitlines()
    if random.randrange(5) == 0 or not lines:
        return harm_bytes(data, random)
    at = random.randrange(len(lines))
    lines[at] = harm_json(lines[at], random).replace(b"\n", b" ")
    return b"\n".join(lines) + b"\n"


def harm_tensors(data: bytes, random: Random) -> bytes:
    """safetensors: offsets that overlap, run backwards or past the end; shapes, kinds and metadata of another sort."""
    way = random.randrange(8)
    if way == 0:
        return harm_bytes(data, random)
    (length,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    one = header[random.choice(names)]
    if way == 1:
        one["data_offsets"] = random.choice(
            ([-8, 0], [0, len(body) + 8], [8, 0], [0, 2**63], header[names[0]]["data_offsets"], [0, 0], [1.5, 3], "x")
        )
    elif way == 2:
        one["shape"] = random.choice(([], [-1], [2**62, 4], [0], one["shape"][::-1], [*one["shape"], 1], "x", [1.5]))
    elif way == 3:
        one["dtype"] = random.choice(("F64", "F16", "BF16", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "x", 3))
    elif way == 4:
        name = random.choice(names)
        header[random.choice(("", "x", "\0", name + ".x"))] = header.pop(name)
    elif way == 5:
        text = json.dumps(header)
        head = random.choice((b"", b"{}", b" ", b"[" * DEEP, b'{"a":' * DEEP, text[:-5].encode(), b"\xff", b"null"))
        return struct.pack("<Q", random.choice((len(head), 2**62, 0))) + head + body
    else:
        about = header.get("__metadata__", {})
        if way == 6 and "facegan" in about:
            about["facegan"] = harm_json(about["facegan"].encode(), random).decode("utf-8", "replace")
        else:
            header["__metadata__"] = random.choice(NASTY)
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + body


def harm_npy(data: bytes, random: Random) -> bytes:
    """A header that does not end, or tells of another array than there is."""
    if random.randrange(4) == 0 or not data.startswith(b"\x93NUMPY\x01"):
        return harm_bytes(data, random)
    (length,) = struct.unpack_from("<H", data, 8)
    head, body = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    way = random.randrange(6)
    if way == 0:
        head = head[: random.randrange(len(head))]
    elif way == 1:
        head = random.choice(
            ("", "{", "(" * 9_000, "'", '"""', "{'descr': ", "\0", "1" * 5_000, "-" * 20_000 + "1", "[" * 60_000)
        )
    elif way == 2:
        head = re.sub(r"\([^)]*\)", random.choice(_SHAPES), head, count=1)
    elif way == 3:
        head = re.sub(r"'descr': '[^']*'", f"'descr': {random.choice(_KINDS)}", head, count=1)
    elif way == 4:
        order = random.choice(("'fortran_order': True", "'fortran_order': 7", "'x': 1"))
        head = head.replace("'fortran_order': False", order)
    else:
        body = body[: random.randrange(len(body) + 1)]
    raw = head.encode("latin-1")[:65_535]
    return data[:8] + struct.pack("<H", random.choice((len(raw), len(raw), len(raw), 65_535))) + raw + body


def harm_zip(inside: Callable[[bytes, Random], bytes]) -> Callable[[bytes, Random], bytes]:
    """An archive of which one member is damaged, called otherwise, or missing; or the archive itself."""

    def harm(data: bytes, random: Random) -> bytes:
        way = random.randrange(6)
        if way == 0:
            return harm_bytes(data, random)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = random.choice(list(members))
        if way == 1:
            members[random.choice(("x", "x.npy", "../x.npy", "a/" * 200 + "x"))] = members.pop(name)
        elif way == 2:
            del members[name]
        else:
            members[name] = inside(members[name], random)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for other, its in members.items():
                archive.writestr(other, its)
        return file.getvalue()

    return harm


def harm_text(data: bytes, random: Random) -> bytes:
    """Lines and words of a text that people write (TOML, tables)."""
    way, lines = random.randrange(5), data.splitlines()
    if way == 0 or not lines:
        return harm_bytes(data, random)
    at = random.randrange(len(lines))
    name = lines[at].partition(b"=")[0].strip() or b"x"
    if way == 1:
        lines[at] = random.choice(
            (b"", b"[", b"x", b"= 3", b"\xff\xfe", b"[[train]]", b"[a.b.c]", b"\0", lines[at] * 2)
        )
    elif way == 2:
        lines.insert(at, lines[random.randrange(len(lines))])
    else:
        value = random.choice(_TOML)
        lines[at] = name + b" = " + value
    return b"\n".join(lines) + b"\n"


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of all values inside a value."""
    if not isinstance(value, dict | list):
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*at, key)
        yield from _places(part, (*at, key))
