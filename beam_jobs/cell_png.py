"""Lossless PNGs of cell crops, written and read several times faster than through a general PNG library.

The files are ordinary PNGs that any reader opens. The speed comes from two choices: one row filter (Up) for the whole
picture, which numpy does and undoes in one call, and ISA-L's deflate. On the 65 cells of two real FOVs that was 3 times
as fast to write as OpenCV's PNG at its fastest setting and 2 times as fast to read, at 1.1 times the size.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
from isal import isal_zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")
_CHUNK = struct.Struct(">I4s")
_COLOUR_TYPES = {1: 0, 4: 6}  # PNG's numbers: grey, RGBA
_UP = 2
_ISAL_LEVEL = 1


def encode_png(image: np.ndarray) -> bytes:
    """Writes a PNG.

    Args:
      image: uint8 or uint16, [H, W] (grey) or [H, W, 4] (RGBA in this order); H and W at least 1.

    Returns:
      The PNG file; equal images give equal bytes.
    """
    height, width = image.shape[:2]
    num_channels = 1 if image.ndim == 2 else image.shape[2]
    row_bytes = width * num_channels * image.dtype.itemsize
    # PNG's 16-bit values are big-endian.
    pixels = np.ascontiguousarray(image if image.dtype == np.uint8 else image.astype(">u2"))
    pixels = pixels.view(np.uint8).reshape(height, row_bytes)
    rows = np.empty((height, 1 + row_bytes), dtype=np.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    header = _HEADER.pack(width, height, 8 * image.dtype.itemsize, _COLOUR_TYPES[num_channels], 0, 0, 0)
    body = isal_zlib.compress(rows, _ISAL_LEVEL)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def decode_png(data: bytes) -> np.ndarray:
    """Reads a PNG of `encode_png`; a PNG written by something else goes through OpenCV.

    Returns:
      uint8 or uint16, [H, W] or [H, W, 4] in the order RGBA.

    Raises:
      ValueError: not a PNG, or cut short.
    """
    image = _decode_own(data)
    if image is not None:
        return image
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise ValueError("the picture of the cell is not a readable PNG")
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)


def _chunk(kind: bytes, body: bytes) -> bytes:
    crc = isal_zlib.crc32(body, isal_zlib.crc32(kind))
    return b"".join((_CHUNK.pack(len(body), kind), body, struct.pack(">I", crc)))


def _decode_own(data: bytes) -> np.ndarray | None:
    """The fast way: None where the file has another layout than `encode_png` writes."""
    idat = len(_SIGNATURE) + _CHUNK.size + _HEADER.size + 4
    if len(data) < idat + _CHUNK.size or not data.startswith(_SIGNATURE):
        return None
    width, height, bits, colour_type, *_ = _HEADER.unpack_from(data, len(_SIGNATURE) + _CHUNK.size)
    num_channels = {number: channels for channels, number in _COLOUR_TYPES.items()}.get(colour_type)
    length, kind = _CHUNK.unpack_from(data, idat)
    body = data[idat + _CHUNK.size : idat + _CHUNK.size + length]
    if num_channels is None or bits not in (8, 16) or kind != b"IDAT" or len(body) != length:
        return None
    try:
        rows = np.frombuffer(isal_zlib.decompress(body), dtype=np.uint8)
    except isal_zlib.error as error:
        raise ValueError(f"the picture of the cell is damaged: {error}") from error
    row_bytes = width * num_channels * bits // 8
    if len(rows) != height * (1 + row_bytes):
        return None
    rows = rows.reshape(height, 1 + row_bytes)
    if (rows[:, 0] != _UP).any():
        return None
    pixels = np.empty((height, row_bytes), dtype=np.uint8)
    pixels[0] = rows[0, 1:]
    # Row by row: numpy's own accumulate goes down the columns one value at a time and takes 3 times as long.
    for row in range(1, height):
        np.add(pixels[row - 1], rows[row, 1:], out=pixels[row])
    shape = (height, width) if num_channels == 1 else (height, width, num_channels)
    return pixels.reshape(shape) if bits == 8 else pixels.view(">u2").astype(np.uint16).reshape(shape)
