"""Bytes of a photograph → upright RGB pixels, or the reason for its rejection.

JPEGs are decoded by libjpeg-turbo (simplejpeg), grey and RGB PNGs by OpenCV, HEIC by pillow-heif, everything else by
Pillow; the size is read from the header first. EXIF orientation is applied. Grey and palette become RGB, alpha is
composited over white, 16-bit values are divided by 257 (above 50 megapixels the lower byte is dropped), animations give
their first frame, ICC profiles are ignored. A photograph that lacks rows is truncated.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

MAX_PIXELS = 100_000_000  # of one photograph
_MAX_PIXELS_HEAVY = 50_000_000  # where the decoder holds the image several times: 100 would take 1.6 GB
_BAND_PIXELS = 1 << 22

# Each costs a pass over the whole image: libjpeg-turbo's authors advise 500 ("Two Issues with the JPEG Standard").
_MAX_SCANS = 500

_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")  # others may run programs (EPS)
_TO_BYTE = ((np.arange(65536) + 128) // 257).astype(np.uint8)
# libjpeg's errors and warnings (jerror.h) after which the pixels are no longer the photographer's.
_JPEG_DAMAGE = ("bad Huffman code", "bad arithmetic code", "found marker", "progression", "extraneous bytes",
                "Invalid JPEG file structure")  # fmt: skip
# Quarter turns of numpy.rot90 and a flip before them that undo each EXIF orientation (Exif 2.3, tag 0x0112).
_UNDO_ORIENTATION = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (3, False),
                     7: (3, True), 8: (1, False)}  # fmt: skip

_SOS, _EOI = 0xDA, 0xD9
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})  # without a length
_JPEG_MARKER = re.compile(rb"\xff+([^\0\xff])")
_MARKER_AFTER_SCAN = re.compile(rb"\xff+([^\0\xd0-\xd7\xff])")  # restart markers belong to the scan
_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # per pixel, by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class Rejected(Exception):
    """This photograph has no sample, for one of `facegan.shards.format.REASONS`."""

    def __init__(self, reason: str, *, no_decoder: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.no_decoder = no_decoder  # it is a HEIC, which no installed library decodes


class Photo:
    """One photograph, ``width`` × ``height`` upright, decoded on demand at the scale that is needed.

    Raises:
        Rejected: ``unreadable``, ``truncated`` or ``too_large``; from the constructor or from `pixels`.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._decoded: dict[int, np.ndarray] = {}
        self._is_simple_jpeg, width, height = _header(data)
        is_heavy = data[:4] == b"RIFF" or _brands(data).startswith((b"avi", b"mif1")) or _is_heic(data)  # WebP, AVIF
        if width * height > (_MAX_PIXELS_HEAVY if is_heavy else MAX_PIXELS):
            raise Rejected("too_large")
        if width == 0 or height == 0 or (data[:2] == b"\xff\xd8" and _has_too_many_scans(data)):
            raise Rejected("unreadable")
        self._orientation = _orientation(data)
        self._stored = (width, height)
        self.width, self.height = (height, width) if self._orientation > 4 else (width, height)

    def pixels(self, shrink: int = 1) -> np.ndarray:
        """Upright RGB pixels, uint8 (ceil(height / shrink), ceil(width / shrink), 3); ``shrink`` is 1, 2, 4 or 8.

        One pixel covers exactly ``shrink`` × ``shrink`` pixels of the photograph: JPEGs are decoded at that scale
        (ITU-T T.81's DCT cut short), others are averaged.
        """
        if shrink not in self._decoded:
            self._decoded[shrink] = self._decode(shrink)
        return self._decoded[shrink]

    def _decode(self, shrink: int) -> np.ndarray:
        # A block cut off by the edge is at the far end as stored; after rotation it would shift all the others.
        shifts = self._orientation > 1 and any(side % shrink for side in self._stored)
        if self._is_simple_jpeg and not shifts:
            rgb = _decode_jpeg(self._data, self._stored, shrink)
            if rgb is not None:
                return _upright(rgb, self._orientation)
        if shrink == 1:
            return _upright(_decode_other(self._data), self._orientation)
        rgb = self.pixels(1)
        bottom, right = -rgb.shape[0] % shrink, -rgb.shape[1] % shrink
        if bottom or right:  # complete the blocks by repeating the edge
            rgb = cv2.copyMakeBorder(rgb, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        return cv2.resize(rgb, (rgb.shape[1] // shrink, rgb.shape[0] // shrink), interpolation=cv2.INTER_AREA)


def _header(data: bytes) -> tuple[bool, int, int]:
    """Whether it is a JPEG for libjpeg-turbo's simple interface; width and height as stored."""
    if data[:2] == b"\xff\xd8":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
            return colours not in ("CMYK", "YCCK"), int(width), int(height)
        except (ValueError, KeyError):  # KeyError: a header without a colour space
            pass
    if _starts_with_ihdr(data):
        return False, *struct.unpack(">II", data[16:24])
    with _pillow(data) as image:
        return False, *image.size


def _starts_with_ihdr(data: bytes) -> bool:
    return data[:8] == _PNG_SIGNATURE and data[12:16] == b"IHDR" and len(data) >= 24


def _pillow(data: bytes) -> Image.Image:
    Image.init()  # with formats given by name, Pillow does not load their plugins itself
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large sizes and of bad EXIF
            is_heic = _is_heic(data) and decodes_heic()
            return Image.open(io.BytesIO(data), formats=("HEIF",) if is_heic else _PILLOW_FORMATS)
    except Image.DecompressionBombError as error:
        raise Rejected("too_large") from error
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error, …
        no_decoder = _is_heic(data) and not decodes_heic()
        reason = "truncated" if _is_cut(data) and not no_decoder else "unreadable"
        raise Rejected(reason, no_decoder=no_decoder) from error


def _orientation(data: bytes) -> int:
    markers = {b"\xff\xd8": (b"Exif\0",), b"\x89P": (b"eXIf", b"Raw profile type exif")}.get(data[:2])
    if markers and not any(marker in data for marker in markers):
        return 1  # Pillow's parser costs as much as decoding a small photograph
    try:
        with _pillow(data) as image, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if image.format == "TIFF":
                return 1  # Pillow rotates these itself
            if image.format == "PNG":
                image.load()  # eXIf may follow the pixels
            block = image.info.get("exif")
            if block is None and "Raw profile type exif" in image.info:  # as ImageMagick writes it
                block = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
            exif = Image.Exif()  # Pillow's getexif falls back to XMP, which cameras and editors keep less carefully
            exif.load(block or b"")
            return value if (value := exif.get(0x0112, 1)) in _UNDO_ORIENTATION else 1
    except Exception:  # Pillow raises a dozen kinds of error for a broken EXIF block, which says nothing of the pixels
        return 1


def _upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    turns, flip = _UNDO_ORIENTATION[orientation]
    if flip:
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns or flip else rgb


# JPEG


def _decode_jpeg(data: bytes, stored: tuple[int, int], shrink: int) -> np.ndarray | None:
    """RGB pixels, or None if libjpeg-turbo's simple interface does not support this kind of JPEG (or this scale)."""
    size = (-(-stored[1] // shrink), -(-stored[0] // shrink))
    least = {"min_height": size[0], "min_width": size[1]} if shrink > 1 else {}

    def decode(jpeg: bytes, strict: bool = True) -> np.ndarray | None:
        rgb = simplejpeg.decode_jpeg(jpeg, "RGB", strict=strict, **least)
        return rgb if rgb.shape[:2] == size else None

    try:
        return decode(data)
    except ValueError:
        # A premature end is reported both for missing rows and for a missing end marker alone. With the marker added,
        # only for the former.
        data = _without_metadata(data) + b"\xff\xd9"
    try:
        return decode(data)
    except ValueError as error:
        problem = str(error)
    if "remature end" in problem:
        raise Rejected("truncated")
    if "extraneous bytes before marker 0xd9" in problem:  # after the last row
        return decode(data, strict=False)
    if any(damage in problem for damage in _JPEG_DAMAGE):
        raise Rejected("unreadable")
    return None


def _has_too_many_scans(jpeg: bytes) -> bool:
    """Before the end of the (first) image: thumbnails, and films after it, may have more."""
    return jpeg.count(b"\xff\xda") > _MAX_SCANS < sum(marker == _SOS for marker, _, _ in _segments(jpeg))


def _without_metadata(jpeg: bytes) -> bytes:
    """The same image without stray bytes, odd versions, comments and profiles, which hide later warnings of libjpeg."""
    kept, end = [b"\xff\xd8"], 2
    for marker, start, end in _segments(jpeg):
        if marker == _SOS:
            return b"".join(kept) + jpeg[start:]
        if marker == 0xE0 and jpeg[start + 4 : start + 9] == b"JFIF\0":
            kept.append(_JFIF)
        elif marker == 0xEE and jpeg[start + 4 : start + 9] == b"Adobe":
            # Transforms are none, YCbCr and YCCK; libjpeg takes others for YCbCr.
            kept.append(jpeg[start:end] if jpeg[start + 15 : start + 16] in (b"\0", b"\1", b"\2") else _JFIF)
        elif not 0xE0 <= marker <= 0xEF and marker != 0xFE:
            kept.append(jpeg[start:end])
    return b"".join(kept) + jpeg[end:]


def _segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment up to the end marker, as libjpeg finds them: bytes between are skipped."""
    at, pattern = 2, _JPEG_MARKER
    while found := pattern.search(jpeg, at):
        marker, start = found[1][0], found.start(1) - 1
        at = found.end()
        if marker == _EOI:
            return
        if marker not in _BARE_MARKERS:
            at += int.from_bytes(jpeg[at : at + 2], "big")
        yield marker, start, at
        pattern = _MARKER_AFTER_SCAN if marker == _SOS else _JPEG_MARKER


# PNG


def _bare_png(png: bytes) -> bytes:
    """The chunks of the (first) image: decoders refuse large text chunks.

    Raises:
        Rejected: rows are missing, which decoders show as black, or zlib finds damage.
    """
    if len(png) < 29:
        raise Rejected("unreadable")
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", png[16:29])
    has_palette = colour != 3
    passes, pixel_bits = _ADAM7 if interlaced else ((0, 0, 1, 1),), bits * _PNG_SAMPLES.get(colour, 0)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    missing = sum(rows * (1 + -(-columns * pixel_bits // 8)) for columns, rows in sizes if columns and rows)
    kept, packed, inflater = [_PNG_SIGNATURE], [b"IDAT"], zlib.decompressobj()
    for name, start, end in png_chunks(png):
        if name == b"IDAT" and missing >= 0 and not inflater.eof:
            packed.append(png[start + 8 : end - 4])
            missing -= _inflated_bytes(inflater, packed[-1], missing + 1)  # one more: zlib checks its checksum
        elif name in (b"IHDR", b"PLTE", b"tRNS"):
            has_palette |= name == b"PLTE"
            kept.append(png[start:end])
    if not has_palette:
        raise Rejected("unreadable")
    if missing > 0:
        raise Rejected("truncated")
    data = b"".join(packed)
    return b"".join([*kept, struct.pack(">I", len(data) - 4), data, struct.pack(">I", zlib.crc32(data)), _PNG_END])


def _inflated_bytes(inflater: Any, packed: bytes, limit: int) -> int:
    """How many bytes come out of ``packed``, up to ``limit``, without keeping more than 1 MB of them."""
    count = 0
    for at in range(0, len(packed), 1 << 16):
        piece = packed[at : at + (1 << 16)]
        while piece and count < limit and not inflater.eof:
            try:
                count += len(inflater.decompress(piece, min(limit - count, 1 << 20)))
            except zlib.error as error:
                raise Rejected("unreadable") from error
            piece = inflater.unconsumed_tail
    return count


def png_chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of each chunk up to IEND; ``end`` is beyond the end of a file that was cut."""
    at = len(_PNG_SIGNATURE)
    while at + 8 <= len(png):
        length, name = struct.unpack_from(">I4s", png, at)
        yield name, at, at + 12 + length
        if name == b"IEND":
            return
        at += 12 + length


# Other formats


def _decode_other(data: bytes) -> np.ndarray:
    # 8- or 16-bit grey or RGB without transparency, and complete
    plain = _starts_with_ihdr(data) and len(data) >= 45 and data[24] in (8, 16) and data[25] in (0, 2)
    if plain and data[-8:-4] == b"IEND" and b"tRNS" not in data[: data.find(b"IDAT")]:
        width, height, bits = struct.unpack(">IIB", data[16:25])
        depth = 0 if bits == 16 and width * height > _MAX_PIXELS_HEAVY else cv2.IMREAD_ANYDEPTH  # 0: the higher 8 bits
        rgb = cv2.imdecode(np.frombuffer(data, np.uint8), _AS_STORED | depth)
        if rgb is not None:
            return rgb if rgb.dtype == np.uint8 else _to_8_bits(rgb)
    if data[:8] == _PNG_SIGNATURE:
        data = _bare_png(data)
    with _pillow(data) as image:
        try:
            if isinstance(image, TiffImageFile):  # the last strip or tile must end at the last row and column
                _, _, right, bottom = image.tile[-1].extents or (0, 0, 0, 0)
                if right < image.tag_v2[256] or bottom < image.tag_v2[257]:  # ImageWidth, ImageLength
                    raise Rejected("truncated")
            image.load()
            return _to_rgb(image)
        except Rejected:
            raise
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
            truncated = "truncated" in str(error).lower() or isinstance(error, EOFError) or _is_cut(data)
            raise Rejected("truncated" if truncated else "unreadable") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    """In bands of rows, so that a large image is in memory once in Pillow and once here, but not a third time."""
    width, height = image.size
    is_12_bit = isinstance(image, TiffImageFile) and image.tag_v2.get(258) == (12,)  # BitsPerSample
    rows = max(1, _BAND_PIXELS // width)
    if rows >= height:
        return _band_to_rgb(image, is_12_bit)
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        rgb[top : top + rows] = _band_to_rgb(image.crop((0, top, width, min(top + rows, height))), is_12_bit)
    return rgb


def _band_to_rgb(image: Image.Image, is_12_bit: bool) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = _to_8_bits(values << 4 | values >> 8 if is_12_bit else values)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise Rejected("unreadable")  # floats have no range that could be scaled to 8 bits
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, over).convert("RGB"))
    return np.array(image.convert("RGB"))


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """0 … 65535 → 0 … 255, rounded: 257 × 255 = 65535. Other integers are clipped first."""
    return _TO_BYTE[values if values.dtype == np.uint16 else values.clip(0, 65535)]


def _is_cut(data: bytes) -> bool:
    """Whether a WebP, AVIF or TIFF is shorter than its header says; decoders refuse it without a reason."""
    if data[:4] == b"RIFF":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data[4:8] == b"ftyp":  # ISO 14496-12: boxes with 32-bit sizes; 0 and 1 have other meanings
        at = 0
        while (size := int.from_bytes(data[at : at + 4], "big")) >= 8:
            at += size
        return at > len(data)
    order = {b"II*\0": "<I", b"MM\0*": ">I"}.get(data[:4])  # of the first directory's offset
    return order is not None and (len(data) < 8 or struct.unpack_from(order, data, 4)[0] >= len(data))


def _is_heic(data: bytes) -> bool:
    return b"hei" in _brands(data) or b"hev" in _brands(data)


@functools.cache
def heic_is_installed() -> bool:
    """Whether pillow-heif (the extra ``heic``) is there. It is not loaded: that takes 3 MB."""
    return importlib.util.find_spec("pillow_heif") is not None


def decodes_heic() -> bool:
    """Whether HEIC can be decoded. pillow-heif rotates photographs itself."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.options.DECODE_THREADS = 1  # pyrefly: ignore[bad-assignment] - its default is taken for a literal
    pillow_heif.register_heif_opener()
    return True


def _brands(data: bytes) -> bytes:
    """The brands of an AVIF (avif, avis, mif1) or HEIC (heic, heix, hevc, …): ISO 23008-12."""
    return data[8 : int.from_bytes(data[:4], "big")] if data[4:8] == b"ftyp" else b""
