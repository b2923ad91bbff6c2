"""TFRecord files without TensorFlow: frames with checksums, byte offsets, and errors that name file and offset.

Frame (tensorflow/core/lib/io/record_writer.h): uint64 length, uint32 masked CRC32C of the length, data, uint32 masked
CRC32C of the data, all little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from hpa_proto.errors import DatasetError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
FRAME_BYTES = _HEADER.size + _FOOTER.size
_PIECE_BYTES = 16 << 20


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame_record(data: bytes) -> bytes:
    """Wraps one record for a TFRecord file: `len(data) + FRAME_BYTES` bytes."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _FOOTER.pack(_masked_crc(length)), data, _FOOTER.pack(_masked_crc(data))))


def checksum_of(frame: bytes) -> int:
    """Returns the masked CRC32C of a frame's record, uint32, as the frame holds it."""
    return _FOOTER.unpack_from(frame, len(frame) - _FOOTER.size)[0]


def unframe_record(frame: bytes, *, path: str, offset: int) -> bytes:
    """Takes one record out of its frame.

    Args:
      frame: exactly the bytes that `frame_record` made.
      path: the file it came from, for the error.
      offset: where the frame starts in the file, for the error.

    Raises:
      DatasetError: cut short or altered.
    """
    if len(frame) < FRAME_BYTES:
        raise DatasetError(f"{path}: truncated record at byte {offset}")
    length, length_crc = _HEADER.unpack_from(frame)
    if _masked_crc(frame[:8]) != length_crc:
        raise DatasetError(f"{path}: corrupt record length at byte {offset} (CRC32C does not match)")
    if len(frame) != length + FRAME_BYTES:
        raise DatasetError(f"{path}: truncated record at byte {offset}")
    data = frame[_HEADER.size : -_FOOTER.size]
    if _masked_crc(data) != checksum_of(frame):
        raise DatasetError(f"{path}: corrupt record at byte {offset} (CRC32C does not match)")
    return data


def read_up_to(file: BinaryIO, num_bytes: int) -> bytes:
    """Reads so many bytes, or what is left of the file.

    In pieces: the memory for a made-up length must not be taken before the file shows that it has so much.
    """
    pieces = []
    while num_bytes > 0 and (piece := file.read(min(num_bytes, _PIECE_BYTES))):
        pieces.append(piece)
        num_bytes -= len(piece)
    return b"".join(pieces)


def read_records(file: BinaryIO, *, path: str) -> Iterator[tuple[int, bytes]]:
    """Reads a TFRecord file from its start.

    Args:
      file: open for reading, at its start.
      path: its name, for the errors.

    Yields:
      (byte offset of the frame, record).

    Raises:
      DatasetError: a record that is cut short or altered; the text names the file and the offset.
    """
    offset = 0
    while header := file.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise DatasetError(f"{path}: truncated record at byte {offset}")
        length, length_crc = _HEADER.unpack(header)
        # Before the length is believed: an altered one may ask for exabytes.
        if _masked_crc(header[:8]) != length_crc:
            raise DatasetError(f"{path}: corrupt record length at byte {offset} (CRC32C does not match)")
        frame = header + read_up_to(file, length + _FOOTER.size)
        yield offset, unframe_record(frame, path=path, offset=offset)
        offset += len(frame)
