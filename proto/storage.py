"""Whole files only, on local disks and on fsspec URLs (s3://, gs://, memory://).

A local file is written under a temporary name, flushed to the disk and renamed: a reader sees the whole file or none. An
object store shows an object only when its upload is complete, and has no cheap rename: there the name is final at once.
What speaks to the stores is `object_store`.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import errno
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa

from hpa_proto import object_store
from hpa_proto.errors import DatasetError

# Temporary names are hidden and recognisable, so that a later run can take away what a killed one left.
_TEMPORARY_MARK = ".tmp-"
# Of folder_lock: says who works in a folder and is no part of what lies there.
LOCK_NAME = ".lock"
_NUM_READERS = 16


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
    return object_store.open_read(path) if is_url(path) else open(path, "rb")


def read_bytes(path: str) -> bytes:
    """Reads a whole file.

    Raises:
      OSError: not there or not readable.
    """
    if not is_url(path):
        with open(path, "rb") as file:
            return file.read()
    with object_store.opened(path) as (filesystem, name):
        return filesystem.cat_file(name)


def read_range(path: str, *, offset_bytes: int, length_bytes: int) -> bytes:
    """Reads a part of a file, with one request to a store; fewer bytes where the file ends before.

    Raises:
      OSError: not there or not readable.
    """
    if not is_url(path):
        with open(path, "rb") as file:
            file.seek(offset_bytes)
            return file.read(length_bytes)
    return object_store.read_range(path, offset_bytes=offset_bytes, length_bytes=length_bytes)


def read_many(paths: Iterable[str]) -> Iterator[bytes]:
    """Reads many small files, several at a time, in the order given."""
    return _run_ahead(read_bytes, ((path,) for path in paths))


def read_ranges(ranges: Iterable[tuple[str, int, int]]) -> Iterator[bytes]:
    """Reads parts of files, (path, offset, length) in bytes, in the order given; from a store several at a time."""

    def read(path: str, offset_bytes: int, length_bytes: int) -> bytes:
        return read_range(path, offset_bytes=offset_bytes, length_bytes=length_bytes)

    ranges = list(ranges)
    # A disk answers so fast that threads would only get in the way.
    if any(is_url(path) for path, _, _ in ranges):
        return _run_ahead(read, ranges)
    return (read(*each) for each in ranges)


def _run_ahead(function: Callable[..., bytes], arguments: Iterable[tuple[Any, ...]]) -> Iterator[bytes]:
    """Calls a function that waits for a store in several threads, a few results ahead."""
    with concurrent.futures.ThreadPoolExecutor(_NUM_READERS) as pool:
        running: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()
        for each in arguments:
            running.append(pool.submit(function, *each))
            if len(running) > _NUM_READERS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


@contextlib.contextmanager
def read_by_name(path: str) -> Iterator[str]:
    """For libraries that read by name: yields a local file's own name, or the name of a copy of a stored one.

    The copy has the same last part, and is gone when the block ends.

    Raises:
      OSError: not there or not readable.
    """
    if not is_url(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = join(folder, os.path.basename(path))
        with object_store.opened(path) as (filesystem, name):
            filesystem.get_file(name, copy)
        yield copy


@contextlib.contextmanager
def write_by_name(path: str) -> Iterator[str]:
    """As `create`, for libraries that write by name: yields a name of a local file that ends as `path` does."""
    if is_url(path):
        # Put together here first: fsspec's own files upload on closing even what an error cut short.
        with tempfile.TemporaryDirectory() as folder:
            temporary = join(folder, os.path.basename(path))
            with _naming_file(temporary):
                yield temporary
            with object_store.opened(path) as (filesystem, name):
                filesystem.put_file(temporary, name)
        return
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"{_TEMPORARY_MARK}{uuid.uuid4().hex[:8]}-{os.path.basename(path)}")
    try:
        with _naming_file(path):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(folder)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


@contextlib.contextmanager
def create(path: str) -> Iterator[BinaryIO]:
    """Opens a new file that appears, whole, when the block ends without an error; makes its folder; replaces an older one.

    Raises:
      OSError: no room, no right, no such place.
    """
    with write_by_name(path) as name, open(name, "wb") as file:
        yield file


@contextlib.contextmanager
def _naming_file(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            # A full disk is an error without a file's name.
            error.filename = path
        raise


def _sync_folder(folder: str) -> None:
    """Keeps a power cut from taking a rename back, or what is renamed later would outlast it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some network file systems cannot do it, and a folder may be one to write into but not to read.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def write_bytes(path: str, data: bytes) -> None:
    """Writes a whole file or nothing, as `create`."""
    if is_url(path):
        with object_store.opened(path) as (filesystem, name):
            filesystem.pipe_file(name, data)
        return
    with create(path) as file:
        file.write(data)


def create_new(path: str, data: bytes) -> bool:
    """Writes a whole file where there is none; False, and nothing is done, where there is one.

    Of two processes that try, one wins, but for object stores that cannot create a file "if absent".

    Raises:
      OSError: no room, no right, no such place.
    """
    if is_url(path):
        return object_store.create_new(path, data)
    temporary = os.path.join(os.path.dirname(path), f"{_TEMPORARY_MARK}{uuid.uuid4().hex}")
    write_bytes(temporary, data)
    try:
        # Unlike a rename, a link never replaces a file, and unlike an exclusive open it shows the content at once.
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:
        # No hard links here.
        try:
            with open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
    finally:
        os.remove(temporary)
    return True


def write_text(path: str, text: str) -> None:
    """Writes UTF-8 text with `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def read_text(path: str) -> str:
    """Reads UTF-8 text."""
    return read_bytes(path).decode("utf-8")


def read_table(path: str, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Reads a Parquet file, or the columns of it that are named.

    Raises:
      OSError: not there or not readable.
      DatasetError: damaged, or without one of the columns.
    """
    data = read_bytes(path)
    try:
        table = pd.read_parquet(io.BytesIO(data), columns=None if columns is None else list(columns))
        # By the file's own word, pandas may make a column the index.
        return table if columns is None else table[list(columns)]
    # The bytes are there: an OSError of pyarrow's is damage too.
    except (pa.ArrowException, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        # A column that is missing is told with the whole schema behind it.
        reason = str(error).partition("\n")[0]
        raise DatasetError(f"{path}: not a readable table: {reason}") from error


def write_table(path: str, table: pd.DataFrame) -> None:
    """Writes a table as a Parquet file with `write_bytes`."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())


def exists(path: str) -> bool:
    """True where a file or folder is."""
    if not is_url(path):
        return os.path.exists(path)
    with object_store.opened(path) as (filesystem, name):
        return filesystem.exists(name)


def size(path: str) -> int | None:
    """Size of a file in bytes; None where there is none."""
    try:
        return object_store.find_info(path)["size"] if is_url(path) else os.path.getsize(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def modified(path: str) -> float | None:
    """When a file was written, Unix time in seconds, of which a store may know whole ones only; None where there is none."""
    try:
        return object_store.modified(path) if is_url(path) else os.path.getmtime(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def remove(path: str) -> None:
    """Removes a file; nothing happens where there is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not is_url(path):
            os.remove(path)
            return
        with object_store.opened(path) as (filesystem, name):
            filesystem.rm_file(name)


def remove_folder(folder: str, *, keep: Container[str] = ()) -> None:
    """Removes the files below a folder but for those named, and the folder itself when nothing is kept."""
    names = _walk(folder)
    with concurrent.futures.ThreadPoolExecutor(_NUM_READERS if is_url(folder) else 1) as pool:
        list(pool.map(remove, (join(folder, name) for name in names if name not in keep)))
    if not is_url(folder) and not any(name in keep for name in names):
        shutil.rmtree(folder, ignore_errors=True)


def list_files(folder: str) -> list[str]:
    """Lists all files below a folder, sorted, as paths relative to it; a folder that is not there has none.

    Temporary names are left out, and locks.
    """
    names = ((name, os.path.basename(name)) for name in _walk(folder))
    return [name for name, last in names if last != LOCK_NAME and not last.startswith(_TEMPORARY_MARK)]


def upload_folder(folder: str, url: str, *, last: str = "") -> None:
    """Copies the files below a local folder to a URL, the one called `last` after all others."""
    for name in sorted(list_files(folder), key=lambda name: name == last):
        with object_store.opened(join(url, name)) as (filesystem, stored):
            filesystem.put_file(join(folder, name), stored)


def remove_temporary_files(folder: str) -> int:
    """Takes away what killed runs left below a folder; returns how many files. Only for the folder's sole writer."""
    stray = [name for name in _walk(folder) if os.path.basename(name).startswith(_TEMPORARY_MARK)]
    for name in stray:
        remove(join(folder, name))
    return len(stray)


def _walk(folder: str) -> list[str]:
    if is_url(folder):
        return object_store.walk(folder)
    found = []
    for parent, _, names in os.walk(folder):
        relative = os.path.relpath(parent, folder)
        found += [name if relative == "." else f"{relative}/{name}" for name in names]
    return sorted(found)
