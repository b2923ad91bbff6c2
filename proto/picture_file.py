"""PNG and JPEG files that somebody else may have written: decoded by OpenCV after a look at what they say of themselves.

A hundred bytes may declare a picture, or a part of the file, of gigabytes, and OpenCV takes the memory before it reads on.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
_CHUNK = struct.Struct(">I4s")
_CHECKSUM_BYTES = 4


def read_size(data: bytes) -> tuple[int, int]:
    """Reads (height, width) from the header of a PNG or JPEG file; nothing is decoded.

    Raises:
      ValueError: another format, a header without a size, or a PNG whose parts are longer than the file.
    """
    if data.startswith(PNG_START):
        _check_chunks(data)
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
      ValueError: too large, damaged or of another format.
    """
    height, width = read_size(data)
    if height * width > max_pixels:
        raise ValueError(f"it is {width} x {height} px; at most {max_pixels:,} px are read")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"it cannot be decoded: {error}") from error
    if image is None:
        raise ValueError("it cannot be decoded")
    return image


def _check_chunks(data: bytes) -> None:
    place, kind = len(PNG_START), b""
    while place < len(data) and kind != b"IEND":
        if place + _CHUNK.size > len(data):
            raise ValueError("a PNG that ends too early")
        length, kind = _CHUNK.unpack_from(data, place)
        place += _CHUNK.size + length + _CHECKSUM_BYTES
        if place > len(data):
            raise ValueError(f"a PNG whose chunk {kind!r} has {length:,} bytes; the file is too short")


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
        # A fill byte stands for itself; any other marker here has a length.
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4])
    return 0, 0
