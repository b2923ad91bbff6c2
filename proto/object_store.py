"""Files on fsspec URLs (s3://, gs://, memory://): the half of `storage` that speaks to object stores.

Whatever a store's library raises becomes an OSError of one line that names the URL, without credentials. Listings are never
taken from a cache: other processes write meanwhile.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import fsspec
from fsspec.core import url_to_fs

from hpa_proto.errors import ConfigError
from hpa_proto.redaction import redact

_READ_BYTES = 8 << 20
# What the stores' libraries raise beside OSError. Only a library that is loaded can have raised something.
_LIBRARY_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
# They log tracebacks of what they raise, and where they found credentials.
_LOGGERS = ("aiobotocore", "botocore", "gcsfs", "s3fs")
_KEPT_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError, TimeoutError)


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Opens the file system of a URL and returns it with the URL's name in it.

    Raises:
      ConfigError: nothing here speaks its protocol.
    """
    for logger in _LOGGERS:
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        filesystem, name = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{redact(url)}: {_one_line(error)}; pip install 'hpa-single-cell[s3]' or [gs] brings s3:// and gs://"
        ) from error
    filesystem.invalidate_cache()
    return filesystem, name


@contextlib.contextmanager
def opened(url: str) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
    """Opens the file system of a URL, as `open_filesystem`, and names the URL in the errors of the block.

    Raises:
      ConfigError: nothing here speaks its protocol.
      OSError: whatever the store's library raises; FileNotFoundError, PermissionError, ... where it tells them apart.
    """
    try:
        yield open_filesystem(url)
    except OSError as error:
        # Libraries say nothing about what is not there, or its name once more.
        is_absent = isinstance(error, FileNotFoundError) and " " not in str(error)
        text = "no such file, folder or bucket" if is_absent else _one_line(error)
        kind = next((kind for kind in _KEPT_ERRORS if isinstance(error, kind)), OSError)
        raise kind(f"{redact(url)}: {text}") from error
    except _library_errors() as error:
        advice = "check the network, the endpoint and the credentials"
        raise OSError(f"{redact(url)}: {_one_line(error).rstrip('.')}; {advice}") from error


def _library_errors() -> tuple[type[Exception], ...]:
    return tuple(getattr(sys.modules[module], name) for module, name in _LIBRARY_ERRORS if module in sys.modules)


def _one_line(error: Exception) -> str:
    return redact(" ".join(str(error).split())) or type(error).__name__


def find_info(url: str) -> dict[str, Any]:
    """Returns what the store says of a file or folder: "size" in bytes, "type" "file" or "directory", ...

    Raises:
      OSError: not there or not readable.
    """
    with opened(url) as (filesystem, name):
        return filesystem.info(name)


def modified(url: str) -> float:
    """Returns when a file was written: Unix time in seconds.

    Raises:
      OSError: not there or not readable.
    """
    with opened(url) as (filesystem, name):
        return filesystem.modified(name).timestamp()


def open_read(url: str) -> BinaryIO:
    """Opens a file for reading bytes; each reading is one request for at least 8 MB, and seeking is free.

    Raises:
      OSError: not there or not readable.
    """
    return io.BufferedReader(_StoredFile(url), _READ_BYTES)


def read_range(url: str, *, offset_bytes: int, length_bytes: int) -> bytes:
    """Reads a part of a file with one request; fewer bytes where the file ends before.

    Raises:
      OSError: not there or not readable.
    """
    if not length_bytes:
        return b""
    with opened(url) as (filesystem, name):
        return filesystem.cat_file(name, start=offset_bytes, end=offset_bytes + length_bytes)


def create_new(url: str, data: bytes) -> bool:
    """Writes a file where there is none; False, and nothing is done, where there is one.

    S3 and Google's store create "if absent" in one step; of other stores two processes may both believe that they did.

    Raises:
      OSError: no right, no such place.
    """
    with opened(url) as (filesystem, name):
        if filesystem.exists(name):
            return False
        try:
            filesystem.pipe_file(name, data, mode="create")
        except FileExistsError:
            return False
        except (ValueError, NotImplementedError):
            filesystem.pipe_file(name, data)
        return True


def walk(url: str) -> list[str]:
    """Lists all files below a folder, sorted, as names relative to it; a folder that is not there has none.

    Raises:
      OSError: not readable.
    """
    with contextlib.suppress(FileNotFoundError), opened(url) as (filesystem, root):
        names = (name.removeprefix(root).lstrip("/") for name in filesystem.find(root))
        # Some tools mark a folder by an object of no bytes whose name ends with a slash.
        return sorted(name for name in names if name and not name.endswith("/"))
    return []


class _StoredFile(io.RawIOBase):
    def __init__(self, url: str):
        super().__init__()
        info = find_info(url)
        if info["type"] == "directory":
            raise IsADirectoryError(f"{redact(url)}: is a folder")
        self._url, self._num_bytes, self._offset = url, info["size"], 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._num_bytes}[whence]
        self._offset = max(0, start + offset)
        return self._offset

    def tell(self) -> int:
        return self._offset

    def readall(self) -> bytes:
        # The base class does it by eight kilobytes.
        data = read_range(self._url, offset_bytes=self._offset, length_bytes=max(0, self._num_bytes - self._offset))
        self._offset += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        length = max(0, min(len(buffer), self._num_bytes - self._offset))
        data = read_range(self._url, offset_bytes=self._offset, length_bytes=length)
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)
