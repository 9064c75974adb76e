"""A sample's image: pixels ↔ file bytes."""

from __future__ import annotations

import contextlib
import itertools
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg

_MAX_PIXELS = 100_000_000  # of an image to decode; OpenCV itself allows ten times as many
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = {1: 0, 3: 2}  # IHDR's colour type by number of channels
_PNG_COLOUR_AT = 25
_JPEG_START = b"\xff\xd8\xff"

# Uncompressed PNGs inside tars, see `StoredPNGs`.
_BLOCK = 512  # bytes; a tar's members begin at multiples of it
_KIND_AT = 37  # of the chunk IDAT: after the signature, IHDR and its own length; its checksum begins here
_PIXELS_AT = _KIND_AT + 4 + 2 + 5  # after zlib's header and the block's (whether it is the last, its length)
_END = np.frombuffer(b"\0\0\0\0IEND\xaeB`\x82", np.uint8)
_NO_BLOCKS = np.zeros((1, _BLOCK), np.uint8)
_BATCH = 64  # files copied together: they stay in a core's cache


def encode_image(pixels: np.ndarray, image_format: str) -> bytes:
    """uint8 (height, width, 3), RGB, or (height, width, 1), grey → uncompressed PNG, JPEG of quality 95 and 4:4:4, or
    lossless WebP. WebP has no grey: its files store the channel three times, in as many bytes as once."""
    grey = pixels.shape[2] == 1
    if image_format == "png":
        return _uncompressed_png(pixels)
    if image_format == "jpg":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 95, *(("GRAY", "Gray") if grey else ("RGB", "444")))
    if image_format == "webp":
        bgr = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR if grey else cv2.COLOR_RGB2BGR)
        return cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()  # above 100: lossless
    raise ValueError(f"no image format '{image_format}'")


def _uncompressed_png(pixels: np.ndarray) -> bytes:
    """W3C PNG, second edition: rows unfiltered, deflate's stored blocks. A tenth of the time of OpenCV's encoder."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + channels * width), np.uint8)  # a row begins with its filter's type, 0: none
    rows[:, 1:] = pixels.reshape(height, channels * width)
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOURS[channels], 0, 0, 0)  # 8 bits
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 0)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
        for kind, data in parts
    )
    return _PNG_SIGNATURE + b"".join(chunks)


def decode_image(data: bytes | memoryview) -> np.ndarray | None:
    """File bytes → RGB uint8 (height, width, 3), grey as three equal channels.

    None if they are not an image, or one of more than 100 megapixels by its header. Releases the GIL.
    """
    if len(data) == 0 or _claimed_pixels(data) > _MAX_PIXELS:
        return None
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if stored is None else cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)


def _claimed_pixels(data: bytes | memoryview) -> int:
    """Width × height in the header of a PNG or JPEG; 0 for others (WebP cannot have more than 16,383²)."""
    width = height = 0
    if data[:8] == _PNG_SIGNATURE and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
    elif data[:3] == _JPEG_START:
        with contextlib.suppress(ValueError, KeyError):  # KeyError: no colour space
            height, width = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
    return int(width) * int(height)


def decode_into(data: memoryview, out: np.ndarray) -> bool:
    """Decode file bytes into ``out``, contiguous uint8 (height, width, 3), RGB, or (height, width, 1), grey.

    JPEGs are decoded by simplejpeg, others by OpenCV; `StoredPNGs` reads what `encode_image` writes as PNG much faster.
    Releases the GIL.
    False if they are not an image of that size, or a coloured one for a grey ``out``. Then ``out`` is untouched, so
    that threads sharing a cache never see half of a damaged image.
    """
    height, width, channels = out.shape
    if data[:3] == _JPEG_START:
        colours = "GRAY" if channels == 1 else "RGB"
        try:
            *size, stored_colours, _ = simplejpeg.decode_jpeg_header(data)
            if size != [height, width] or (channels == 1 and stored_colours != "Gray"):
                return False
            out[:] = simplejpeg.decode_jpeg(data, colours)
        except ValueError:
            return False
        return True
    rgb = decode_image(data)
    if rgb is None or rgb.shape[:2] != (height, width) or not (channels == 3 or is_grey(rgb)):
        return False
    out[:] = rgb[..., :channels]
    return True


def is_grey(rgb: np.ndarray) -> bool:
    """Whether all channels of (height, width, 3) are equal."""
    return bool((rgb == rgb[..., :1]).all())


def channels_problem(data: bytes, rgb: np.ndarray, channels: int) -> str:
    """How the channels of a file with pixels ``rgb`` differ from ``channels`` (1 or 3); "" if they do not."""
    if data[:8] == _PNG_SIGNATURE:
        found = next((n for n, colours in _PNG_COLOURS.items() if colours == data[_PNG_COLOUR_AT]), None)
    elif data[:3] == _JPEG_START:
        found = 1 if simplejpeg.decode_jpeg_header(data)[2] == "Gray" else 3
    else:
        found = None
    if found is None:  # WebP: grey is three equal channels
        found = 1 if channels == 1 and is_grey(rgb) else 3
    return "" if found == channels else f"has {found} channel{'s' if found > 1 else ''}"


class StoredPNGs:
    """Reader of the PNGs that `encode_image` writes: files of one size differ in pixels and checksums alone.

    Copies many images with a few calls of NumPy. In a loop over single images the GIL would let two threads read no
    more than one.
    """

    def __init__(self, size: int, channels: int) -> None:
        png = encode_image(np.zeros((size, size, channels), np.uint8), "png")
        # Over 65,535 bytes of pixels need a second deflate block; such files are left to other decoders.
        self._bytes = len(png) if png[_PIXELS_AT - 5] == 1 else -1
        self._blocks = np.arange(-(-len(png) // _BLOCK))
        self._head = np.frombuffer(png, np.uint8, _PIXELS_AT)
        self._rows, self._row = size, 1 + size * channels  # a row begins with its filter's type, 0: none
        self._sum_at = len(png) - len(_END) - 4

    def decode(
        self,
        open_tar: Callable[[int], memoryview],
        tars: np.ndarray,
        extents: np.ndarray,
        out: np.ndarray,
        rows: np.ndarray,
    ) -> np.ndarray:
        """Copy pixels into ``out`` and return of which files: bool (n,). Rows of other or damaged ones stay untouched.

        Args:
            open_tar: gives the memory of a tar by its number.
            tars: int64 (n,), the tar of each file, in groups.
            extents: int64 (n, 2), offset and size of each file in bytes.
            out: uint8 (N, size, size, channels), contiguous.
            rows: int64 (n,), the index in ``out`` of each image.
        """
        done = np.zeros(len(rows), bool)
        ours = (extents[:, 1] == self._bytes) & (extents[:, 0] % _BLOCK == 0)
        if not ours.any():  # as in datasets of JPEGs
            return done
        blocks = extents[:, :1] // _BLOCK + self._blocks
        files = np.empty((_BATCH, len(self._blocks), _BLOCK), np.uint8)
        into = out.reshape(len(out), self._rows, self._row - 1)
        for start in range(0, len(rows), _BATCH):
            part, filled = slice(start, start + _BATCH), 0
            for number, group in itertools.groupby(tars[part].tolist()):
                data, end = open_tar(number), filled + sum(1 for _ in group)
                whole = len(data) // _BLOCK * _BLOCK
                tar = np.frombuffer(data, np.uint8, whole).reshape(-1, _BLOCK) if whole else _NO_BLOCKS
                # mode="clip", since any other buffers ``out``: files of another kind, or beyond the tar's end, are
                # read too, and refused by `_check`.
                np.take(tar, blocks[start + filled : start + end], axis=0, out=files[filled:end], mode="clip")
                filled = end
            pixels, valid = self._check(files[:filled])
            valid &= ours[part]
            done[part] = valid
            copied = slice(None) if valid.all() else valid  # a mask copies once more
            into[rows[part][copied]] = pixels[copied]
        return done

    def _check(self, files: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of each file, uint8 (n, size, size · channels), and whether it is complete and ours, bool (n,)."""
        flat = files.reshape(len(files), -1)
        rows = flat[:, _PIXELS_AT : _PIXELS_AT + self._rows * self._row].reshape(len(files), self._rows, self._row)
        valid = (flat[:, :_PIXELS_AT] == self._head).all(1)
        valid &= (flat[:, self._sum_at + 4 : self._sum_at + 4 + len(_END)] == _END).all(1)
        valid &= ~rows[:, :, 0].any(1)
        stored = flat[:, self._sum_at : self._sum_at + 4].copy().view(">u4")[:, 0]
        valid &= stored == [zlib.crc32(file) for file in flat[:, _KIND_AT : self._sum_at]]
        return rows[:, :, 1:], valid
