"""A parser to be fuzzed, and what the targets of all kinds of files need."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import pathlib
import tempfile
import zipfile
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa

from hpa_proto import storage
from trainer.submission import FovSize

FOLDER = "memory://fuzz"
SIZE = FovSize(6, 8)
SQUARE = np.pad(np.ones((3, 3), bool), ((1, 2), (2, 3)))


@dataclasses.dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
      parse: reads bytes, and asserts what must hold of what it has read.
      errors: what it may raise, by its docstring.
      seeds: sound inputs, which it takes.
      num_runs: inputs of a run in CI; a second or two.
    """

    parse: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]
    num_runs: int = 5_000

    def __call__(self, data: bytes) -> None:
        """Reads, and lets pass only what is documented."""
        with contextlib.suppress(*self.errors):
            self.parse(data)


def to_text(data: bytes) -> str:
    """Decodes whatever it is."""
    return data.decode("utf-8", "replace")


def write(name: str, data: bytes) -> str:
    """Writes a file in memory and returns its URL."""
    path = storage.join(FOLDER, name)
    storage.write_bytes(path, data)
    return path


@functools.cache
def local_folder() -> str:
    """A folder on the disk, for what is not read from URLs or has to stand a name that no disk knows."""
    # Kept by the cache: it is removed when the process ends.
    return _kept_folder().name


@functools.cache
def _kept_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


def write_local(name: str, data: bytes) -> str:
    """Writes a file on the disk and returns its path."""
    path = pathlib.Path(local_folder(), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def texts(*lines: str) -> Callable[[], list[bytes]]:
    """Makes seeds of texts."""
    return lambda: [text.encode() for text in lines]


def zip_of(members: dict[str, bytes]) -> bytes:
    """Packs a ZIP archive, always with the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def npy_of(array: np.ndarray) -> bytes:
    """Writes a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def parquet_of(table: pd.DataFrame) -> bytes:
    """Writes a Parquet file."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def parquet_of_json(data: bytes) -> bytes | None:
    """Makes a sound Parquet file whose columns are JSON's: any type, any value; None where that cannot be."""
    try:
        return parquet_of(pd.DataFrame(json.loads(data)))
    # Whatever pandas and Arrow say of it: only what they write is of interest.
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, pa.ArrowException):
        return None
