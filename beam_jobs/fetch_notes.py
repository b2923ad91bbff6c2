"""fetched.jsonl: what `fetch_hpa` has fetched into a folder, a line a file: name, address, size, SHA-256."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hpa_proto import json_text, storage
from hpa_proto.errors import ConfigError

NOTES_NAME = "fetched.jsonl"
# Where notes cannot be appended, a kill costs what was fetched since they were written: so long at most.
_WRITE_SECONDS = 60.0


class FetchNotes:
    """The notes of one folder, local or an fsspec URL."""

    def __init__(self, folder: str):
        """Reads the notes; drops a last line that a killed run left unfinished.

        Raises:
          ConfigError: they are no notes.
          OSError: not readable.
        """
        self._folder, self._path = folder, storage.join(folder, NOTES_NAME)
        is_url = storage.is_url(folder)
        data = storage.read_bytes(self._path) if storage.exists(self._path) else b""
        whole = data[: data.rfind(b"\n") + 1]
        try:
            self._text = whole.decode("utf-8")
            notes = [json_text.parse(line) for line in self._text.splitlines()]
            self._num_bytes_of = {note["name"]: note["num_bytes"] for note in notes}
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self._path}: not the notes of earlier fetches ({error}); move it away") from error
        if whole != data:
            storage.write_bytes(self._path, whole)
        # Of a store's files only the names: it holds them whole or not at all, and each size would be a request.
        self._stored = frozenset(storage.list_files(folder)) if is_url else None

    def has(self, name: str) -> bool:
        """Whether a file is noted, and there."""
        if name not in self._num_bytes_of:
            return False
        if self._stored is not None:
            return name in self._stored
        return storage.size(storage.join(self._folder, name)) == self._num_bytes_of[name]

    @contextlib.contextmanager
    def adding(self) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Yields what notes a file: at once on a disk; a store cannot append, there all is written anew now and then.

        Raises:
          OSError: not writable.
        """
        if self._stored is None:
            os.makedirs(self._folder, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as file:

                def append(note: Mapping[str, Any]) -> None:
                    file.write(json.dumps(note) + "\n")
                    file.flush()

                yield append
            return
        lines, written_sec = [self._text], time.monotonic()

        def add(note: Mapping[str, Any]) -> None:
            nonlocal written_sec
            lines.append(json.dumps(note) + "\n")
            if time.monotonic() - written_sec > _WRITE_SECONDS:
                storage.write_text(self._path, "".join(lines))
                written_sec = time.monotonic()

        try:
            yield add
        finally:
            storage.write_text(self._path, "".join(lines))
