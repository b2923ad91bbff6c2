"""Whole files only, on local disks and on fsspec URLs (s3://, gs://, memory://).

A local file is written under a temporary name, flushed to the disk and renamed: a reader sees the whole file or none. An
object store shows an object only when its upload is complete, and has no cheap rename: there the name is final at once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Container, Iterable, Iterator
from typing import BinaryIO

import fsspec
import pandas as pd
from fsspec.core import url_to_fs

from hpa_proto.errors import ConfigError

# Temporary names are hidden and recognisable, so that a later run can take away what a killed one left.
_TEMPORARY_MARK = ".tmp-"
_NUM_READERS = 16
_SPOOL_BYTES = 64 << 20
_COPY_BYTES = 8 << 20


def is_url(path: str) -> bool:
    """True for an fsspec URL such as s3://bucket/name; a plain path is local."""
    return "://" in path


def join(folder: str, *parts: str) -> str:
    """Joins with one slash, for local paths and URLs alike."""
    return "/".join((folder.rstrip("/") or "/", *parts)) if folder else "/".join(parts)


def open_read(path: str) -> BinaryIO:
    """Opens for reading bytes; seekable.

    Raises:
      OSError: not there or not readable.
    """
    if not is_url(path):
        return open(path, "rb")
    filesystem, name = open_filesystem(path)
    return filesystem.open(name, "rb")


def read_bytes(path: str) -> bytes:
    """Reads a whole file.

    Raises:
      OSError: not there or not readable.
    """
    with open_read(path) as file:
        return file.read()


def read_many(paths: Iterable[str]) -> Iterator[bytes]:
    """Reads many small files, several at a time, in the order given."""
    with concurrent.futures.ThreadPoolExecutor(_NUM_READERS) as pool:
        yield from pool.map(read_bytes, paths)


@contextlib.contextmanager
def create(path: str) -> Iterator[BinaryIO]:
    """Opens a new file that appears, whole, when the block ends without an error; makes its folder; replaces an older one.

    Raises:
      OSError: no room, no right, no such place.
    """
    if is_url(path):
        # The store must not see a file that an error cut short, so it is put together here first.
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as file:
            yield file
            file.seek(0)
            filesystem, name = open_filesystem(path)
            with filesystem.open(name, "wb") as target:
                shutil.copyfileobj(file, target, _COPY_BYTES)
        return
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"{_TEMPORARY_MARK}{os.path.basename(path)}-{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def write_bytes(path: str, data: bytes) -> None:
    """Writes a whole file or nothing, as `create`."""
    with create(path) as file:
        file.write(data)


def write_text(path: str, text: str) -> None:
    """Writes UTF-8 text with `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def read_text(path: str) -> str:
    """Reads UTF-8 text."""
    return read_bytes(path).decode("utf-8")


def read_table(path: str) -> pd.DataFrame:
    """Reads a Parquet file."""
    return pd.read_parquet(io.BytesIO(read_bytes(path)))


def write_table(path: str, table: pd.DataFrame) -> None:
    """Writes a table as a Parquet file with `write_bytes`."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())


def exists(path: str) -> bool:
    """True where a file or folder is."""
    if not is_url(path):
        return os.path.exists(path)
    filesystem, name = open_filesystem(path)
    return filesystem.exists(name)


def size(path: str) -> int | None:
    """Size of a file in bytes; None where there is none."""
    if not exists(path):
        return None
    if is_url(path):
        filesystem, name = open_filesystem(path)
        return filesystem.size(name)
    return os.path.getsize(path)


def remove(path: str) -> None:
    """Removes a file; nothing happens where there is none."""
    if is_url(path):
        filesystem, name = open_filesystem(path)
        if filesystem.exists(name):
            filesystem.rm_file(name)
    elif os.path.exists(path):
        os.remove(path)


def remove_folder(folder: str, *, keep: Container[str] = ()) -> None:
    """Removes the files below a folder but for those named, and the folder itself when nothing is kept."""
    names = _walk(folder)
    for name in names:
        if name not in keep:
            remove(join(folder, name))
    if not is_url(folder) and not any(name in keep for name in names):
        shutil.rmtree(folder, ignore_errors=True)


def list_files(folder: str) -> list[str]:
    """Lists all files below a folder, sorted, as paths relative to it; a folder that is not there has none.

    Temporary names are left out.
    """
    return [name for name in _walk(folder) if not os.path.basename(name).startswith(_TEMPORARY_MARK)]


def remove_temporary_files(folder: str) -> int:
    """Takes away what killed runs left below a folder; returns how many files. Only for the folder's sole writer."""
    stray = [name for name in _walk(folder) if os.path.basename(name).startswith(_TEMPORARY_MARK)]
    for name in stray:
        remove(join(folder, name))
    return len(stray)


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Opens the file system of a URL.

    Raises:
      ConfigError: nothing here speaks its protocol.
    """
    try:
        filesystem, name = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{url}: {error}; pip install 'hpa-single-cell[s3]' or [gs] brings s3:// and gs://"
        ) from error
    # Listings are kept by the process that made them, and other processes write meanwhile.
    filesystem.invalidate_cache()
    return filesystem, name


def _walk(folder: str) -> list[str]:
    if is_url(folder):
        filesystem, root = open_filesystem(folder)
        if not filesystem.exists(root):
            return []
        return sorted(name.removeprefix(root).lstrip("/") for name in filesystem.find(root))
    found = []
    for parent, _, names in os.walk(folder):
        relative = os.path.relpath(parent, folder)
        found += [name if relative == "." else f"{relative}/{name}" for name in names]
    return sorted(found)
