"""Are a data set's shards the files that its manifest describes? Both halves ask here, so both say what is wrong alike.

A fault is a DatasetError that names the file and, where there is one, the byte at which the fault begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

from hpa_proto import cells_pb2, records, storage
from hpa_proto.errors import DatasetError

_CHUNK_BYTES = 1 << 22


def check_size(data_dir: str, shard: cells_pb2.ShardInfo) -> None:
    """Checks that a shard is there and has its size; no byte of it is read.

    Raises:
      DatasetError: it is not there, or shorter or longer.
      OSError: its size cannot be found out.
    """
    path = storage.join(data_dir, shard.name)
    size = storage.size(path)
    if size is None:
        raise DatasetError(f"{path}: missing; the manifest names it")
    if size != shard.num_bytes:
        raise DatasetError(f"{path}: ends at byte {size}, the manifest says {shard.num_bytes} bytes")


def read_shard(data_dir: str, shard: cells_pb2.ShardInfo) -> Iterator[tuple[int, bytes]]:
    """Reads a shard and checks every record's checksum; at the end number, size and SHA-256.

    Yields:
      (byte offset of the frame, record).

    Raises:
      DatasetError: the first fault.
      OSError: it cannot be read.
    """
    path = storage.join(data_dir, shard.name)
    size = storage.size(path)
    if size is None:
        raise DatasetError(f"{path}: missing; the manifest names it")
    num_records = 0
    with storage.open_read(path) as file:
        reader = _HashingReader(file)
        for offset, record in records.read_records(reader, path=path):
            if num_records == shard.num_examples:
                raise DatasetError(f"{path}: more records than the {num_records} of the manifest at byte {offset}")
            yield offset, record
            num_records += 1
    if num_records != shard.num_examples:
        raise DatasetError(f"{path}: ends after {num_records} of {shard.num_examples} records at byte {size}")
    if size != shard.num_bytes:
        raise DatasetError(f"{path}: ends at byte {size}, the manifest says {shard.num_bytes} bytes")
    if reader.digest.hexdigest() != shard.sha256:
        raise DatasetError(
            f"{path}: every record is sound, but the SHA-256 from byte 0 on is {reader.digest.hexdigest()}, not the "
            f"manifest's {shard.sha256}; was the shard written again?"
        )


def check_content(data_dir: str, shard: cells_pb2.ShardInfo, manifest: cells_pb2.DatasetManifest) -> None:
    """Reads a shard through and compares it with the manifest.

    Raises:
      DatasetError: the first fault.
      OSError: it cannot be read.
    """
    try:
        for _ in read_shard(data_dir, shard):
            pass
    except DatasetError as error:
        path = storage.join(data_dir, shard.name)
        digest = _sha256(path) if storage.exists(path) else ""
        for other in manifest.shards:
            if other.name != shard.name and other.sha256 == digest:
                raise DatasetError(
                    f"{path}: from byte 0 on what the manifest says of {other.name}; were the two files swapped?"
                ) from error
        raise


class _HashingReader:
    """A file that hashes what is read from it."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with storage.open_read(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
