"""PNG and JPEG files that somebody else may have written: decoded by OpenCV after a look at what they say of themselves.

A hundred bytes may declare a picture, or a part of the file, of gigabytes, and OpenCV takes the memory before it reads on.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
_CHUNK = struct.Struct(">I4s")
_CHECKSUM = struct.Struct(">I")
# Tags, and how a number of each kind is packed: bytes, shorts, longs.
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_KINDS = {1: "B", 3: "H", 4: "I"}
# Those that may stand before a JPEG's frame and have a length: tables (DHT, DAC, DQT, DRI), APP0 to APP15, comments.
_JPEG_SEGMENTS = frozenset((0xC4, 0xCC, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))


def read_size(data: bytes) -> tuple[int, int]:
    """Reads (height, width) from the header of a PNG or JPEG file; nothing is decoded.

    Raises:
      ValueError: another format, a header without a size, a PNG whose parts are longer than the file, or a JPEG with a
        marker before its frame that does not belong there.
    """
    if data.startswith(PNG_START):
        for _ in _find_chunks(data):
            pass
        height, width = _png_size(data)
    elif data.startswith(JPEG_START):
        height, width = _jpeg_size(data)
    else:
        raise ValueError(f"no PNG and no JPEG: it begins with {data[:12]!r}")
    if not height * width:
        raise ValueError("its header has no size")
    return height, width


def decode(data: bytes, *, max_pixels: int) -> np.ndarray:
    """Decodes a PNG or JPEG file as it is: uint8 or uint16, [H, W] or [H, W, C], colours as BGR.

    Args:
      data: the file.
      max_pixels: height times width that is not exceeded; looked up before anything is decoded.

    Raises:
      ValueError: too large, damaged or of another format. A JPEG has no checksum: damage that leaves it readable shows
        in its pixels alone.
    """
    height, width = read_size(data)
    if height * width > max_pixels:
        raise ValueError(f"it is {width} x {height} px; at most {max_pixels:,} px are read")
    if data.startswith(PNG_START):
        _check_sums(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"it cannot be decoded: {error}") from error
    if image is None:
        raise ValueError("it cannot be decoded")
    if image.shape[:2] != (height, width):
        raise ValueError(f"its header says {width} x {height} px, it holds {image.shape[1]} x {image.shape[0]}")
    return image


def read_tiff_size(data: bytes) -> tuple[int, int]:
    """Reads (height, width) from the first directory of a TIFF file (TIFF 6.0, section 2); nothing is decoded.

    Raises:
      ValueError: damaged, without a size, or a BigTIFF.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise ValueError(f"no TIFF: it begins with {data[:12]!r}")
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", data, start)
        sizes = {}
        for place in range(start + 2, start + 2 + 12 * num_entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", data, place)
            if tag in (_TIFF_WIDTH, _TIFF_HEIGHT):
                # The same tag again: whoever decodes may take either.
                sizes[tag] = max(sizes.get(tag, 0), *struct.unpack_from(order + _TIFF_KINDS[kind], data, place + 8))
        height, width = sizes[_TIFF_HEIGHT], sizes[_TIFF_WIDTH]
    except (struct.error, KeyError) as error:
        raise ValueError("a TIFF whose first directory is damaged or has no size") from error
    if not height * width:
        raise ValueError("its header has no size")
    return height, width


def _find_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Walks over the chunks of a PNG up to its end: (kind, offset of the chunk, offset of its checksum)."""
    place, kind = len(PNG_START), b""
    while place < len(data) and kind != b"IEND":
        if place + _CHUNK.size > len(data):
            raise ValueError("a PNG that ends too early")
        length, kind = _CHUNK.unpack_from(data, place)
        checksum = place + _CHUNK.size + length
        if checksum + _CHECKSUM.size > len(data):
            raise ValueError(f"a PNG whose chunk {kind!r} has {length:,} bytes; the file is too short")
        yield kind, place, checksum
        place = checksum + _CHECKSUM.size


def _check_sums(data: bytes) -> None:
    # OpenCV refuses damaged pixels without a word about the place, and reads on without a damaged chunk that it can do
    # without, such as transparency. Under 2 % of the time that decoding takes.
    view = memoryview(data)
    for kind, place, checksum in _find_chunks(data):
        if zlib.crc32(view[place + 4 : checksum]) != _CHECKSUM.unpack_from(data, checksum)[0]:
            raise ValueError(f"a PNG whose chunk {kind!r} at byte {place:,} is damaged: its checksum is wrong")


def _png_size(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR" or len(data) < 24:
        return 0, 0
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Reads a JPEG's frame header (ITU T.81, B.2.2)."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack_from(">HH", data, place + 5)
        # A fill byte stands for itself.
        if marker == 0xFF:
            place += 1
            continue
        # libjpeg steps over some markers as having no length: a length taken from them would lead to a size of one's choice.
        if marker not in _JPEG_SEGMENTS:
            raise ValueError(f"a JPEG with the marker 0x{marker:02X} at byte {place:,}, before its frame")
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return 0, 0
