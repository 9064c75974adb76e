"""A sample's image: pixels ↔ file bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import cv2
import numpy as np
import simplejpeg


def encode_image(pixels: np.ndarray, image_format: str) -> bytes:
    """RGB uint8 (height, width, 3), or grey (height, width, 1) → file bytes: uncompressed PNG, JPEG at quality 95 and
    4:4:4, or lossless WebP. WebP knows no grey: its files hold the one channel three times, in as many bytes as once.
    """
    is_grey = pixels.shape[2] == 1
    if image_format == "png":
        return _uncompressed_png(pixels)
    if image_format == "jpg":
        colours = ("GRAY", "Gray") if is_grey else ("RGB", "444")
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 95, *colours)
    if image_format == "webp":
        above_100_is_lossless = [cv2.IMWRITE_WEBP_QUALITY, 101]
        bgr = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR if is_grey else cv2.COLOR_RGB2BGR)
        return cv2.imencode(".webp", bgr, above_100_is_lossless)[1].tobytes()
    raise ValueError(f"no image format '{image_format}'")


def _uncompressed_png(pixels: np.ndarray) -> bytes:
    """W3C PNG, second edition: rows unfiltered, deflate's stored blocks. A tenth of the time of OpenCV's encoder."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + channels * width), np.uint8)  # each row begins with its filter's type, 0: none
    rows[:, 1:] = pixels.reshape(height, channels * width)
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOURS[channels], 0, 0, 0)  # 8 bits
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 0)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
        for kind, data in parts
    )
    return _PNG_SIGNATURE + b"".join(chunks)


def decode_image(data: bytes | memoryview) -> np.ndarray | None:
    """File bytes → RGB uint8 (height, width, 3), grey as three equal channels; None where they are no image. Frees the
    interpreter while it works."""
    if len(data) == 0:
        return None
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if stored is None else cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)


def channels_problem(data: bytes, rgb: np.ndarray, channels: int) -> str:
    """What is wrong with the channels of an image that has to have 1 or 3; its file, and its pixels as RGB."""
    found = _file_channels(data)
    if found is None:  # WebP: grey is three times the same
        found = 1 if channels == 1 and is_grey(rgb) else 3
    return "" if found == channels else f"has {found} channel{'s' if found > 1 else ''}"


def _file_channels(data: bytes) -> int | None:
    if data[:8] == _PNG_SIGNATURE:
        return next((n for n, colours in _PNG_COLOURS.items() if colours == data[_PNG_COLOURS_AT]), None)
    if data[:3] == b"\xff\xd8\xff":
        return 1 if simplejpeg.decode_jpeg_header(data)[2] == "Gray" else 3
    return None


def decode_into(data: memoryview, out: np.ndarray) -> bool:
    """File bytes → ``out``, contiguous uint8 (height, width, 3), RGB, or (height, width, 1), grey; False, and ``out``
    untouched, where they are no image of that size, or one with colours for a grey ``out``: threads that meet at one
    place of a cache never see half of a damaged image there.

    JPEGs by simplejpeg, all else by OpenCV. What `encode_image` writes as PNG is read by `facegan.shards.images`, many
    times faster. Frees the interpreter while it works.
    """
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg_into(data, out)
    height, width, channels = out.shape
    rgb = decode_image(data)
    if rgb is None or rgb.shape[:2] != (height, width) or not (channels == 3 or is_grey(rgb)):
        return False
    out[:] = rgb[..., :channels]
    return True


def is_grey(rgb: np.ndarray) -> bool:
    """Whether all channels of (height, width, 3) are the same."""
    return bool((rgb == rgb[..., :1]).all())


_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = {1: 0, 3: 2}  # by channels, IHDR's types of colour: grey, RGB
_PNG_COLOURS_AT = 25


def _jpeg_into(data: memoryview, out: np.ndarray) -> bool:
    wanted = "GRAY" if out.shape[2] == 1 else "RGB"
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != out.shape[:2] or (wanted == "GRAY" and colours != "Gray"):
            return False
        pixels = simplejpeg.decode_jpeg(data, wanted)
    except ValueError:
        return False
    out[:] = pixels
    return True


# PNGs as `encode_image` writes them, uncompressed and unfiltered, copied out of shards many at a time.

_BLOCK = 512  # bytes; a tar's members begin at multiples of it
_KIND_AT = 37  # of the chunk IDAT: behind the signature, IHDR and its own length; its checksum begins here
_PIXELS_AT = _KIND_AT + 4 + 2 + 5  # behind zlib's header, and the block's: whether it is the last, its length
_END = np.frombuffer(b"\0\0\0\0IEND\xaeB`\x82", np.uint8)
_NOTHING = np.zeros((1, _BLOCK), np.uint8)
_AT_ONCE = 64  # files copied together: they stay in a core's cache


class StoredPNGs:
    """The files of images of one size, which differ in nothing but pixels and checksums.

    A handful of NumPy's calls for many images in the place of some for each one: in a loop over single images the
    interpreter's lock lets two threads read no more than one.
    """

    def __init__(self, size: int, channels: int) -> None:
        png = encode_image(np.zeros((size, size, channels), np.uint8), "png")
        # Beyond 65,535 bytes of pixels deflate needs a second block: then no file is one of these.
        self._bytes = len(png) if png[_PIXELS_AT - 5] == 1 else -1
        self._blocks = np.arange(-(-len(png) // _BLOCK))
        self._before = np.frombuffer(png, np.uint8, _PIXELS_AT)
        self._rows, self._row = size, 1 + size * channels  # each row begins with its filter's type, 0: none
        self._sum_at = len(png) - len(_END) - 4

    def decode(
        self, tars: Iterable[tuple[memoryview, int]], places: np.ndarray, out: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Copies pixels into ``out``, and leaves it untouched where a file is none of these or not whole.

        Args:
            tars: the memory of each tar, and how many of the files lie in it.
            places: int64 (n, 2), offset and size of each file in bytes, one tar's files after the other's.
            out: uint8 (N, size, size, channels), contiguous.
            rows: int64 (n,), where in ``out`` each image goes.

        Returns:
            Which were copied: bool (n,).
        """
        done = np.zeros(len(rows), bool)
        ours = (places[:, 1] == self._bytes) & (places[:, 0] % _BLOCK == 0)
        if not ours.any():  # as in datasets of JPEGs
            return done
        blocks = places[:, :1] // _BLOCK + self._blocks
        files = np.empty((_AT_ONCE, len(self._blocks), _BLOCK), np.uint8)
        held = begin = 0
        for data, count in tars:
            whole_blocks = len(data) // _BLOCK * _BLOCK
            tar = np.frombuffer(data, np.uint8, whole_blocks).reshape(-1, _BLOCK) if whole_blocks else _NOTHING
            end = begin + count
            while begin < end:
                more = min(_AT_ONCE - held, end - begin)
                # Clipped, for any other mode buffers ``out``: what is not ours, or would lie behind the tar's end, is
                # read as well, and found out below.
                np.take(tar, blocks[begin : begin + more], axis=0, out=files[held : held + more], mode="clip")
                held, begin = held + more, begin + more
                if held == _AT_ONCE:
                    self._copy(files, slice(begin - held, begin), ours, out, rows, done)
                    held = 0
        if held:
            self._copy(files[:held], slice(begin - held, begin), ours, out, rows, done)
        return done

    def _copy(
        self, files: np.ndarray, which: slice, ours: np.ndarray, out: np.ndarray, rows: np.ndarray, done: np.ndarray
    ) -> None:
        flat = files.reshape(len(files), -1)
        pixels = flat[:, _PIXELS_AT : _PIXELS_AT + self._rows * self._row].reshape(len(files), self._rows, self._row)
        whole = ours[which] & (flat[:, :_PIXELS_AT] == self._before).all(1)
        whole &= (flat[:, self._sum_at + 4 : self._sum_at + 4 + len(_END)] == _END).all(1)
        whole &= ~pixels[:, :, 0].any(1)
        told = flat[:, self._sum_at : self._sum_at + 4].copy().view(">u4")[:, 0]
        whole &= told == [zlib.crc32(file) for file in flat[:, _KIND_AT : self._sum_at]]
        into = out.reshape(len(out), self._rows, self._row - 1)
        if whole.all():
            into[rows[which]] = pixels[:, :, 1:]
        else:
            into[rows[which][whole]] = pixels[whole, :, 1:]
        done[which] = whole
