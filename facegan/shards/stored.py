"""PNGs as `encode_image` writes them, uncompressed and unfiltered, copied out of shards many at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np

from facegan.shards.images import encode_image

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
