"""Keeps credentials that stand in URLs out of everything that is written or printed.

Credentials belong into the environment or the provider's own files. Where a URL has some all the same
(https://user:password@host/x, ...?X-Amz-Signature=...), no manifest, report, log or error shows them.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_HIDDEN = "***"
# A secret key may have a slash in it, written as it is.
_USER_INFO = re.compile(r"(?<=://)(?:[^\s/@'\"]*:[^\s@'\"]*|[^\s/@'\"]+)(?=@)")
_QUERY_VALUE = re.compile(r"(?<=[?&])([\w.-]+)=[^\s&'\",]+")
_URL = re.compile(r"[A-Za-z][\w+.-]*:/{1,2}[^\s'\"]+")


def redact(text: str) -> str:
    """Hides what may be secret in every URL of a text: user and password, and the values of a query.

    s3://key:secret@bucket/x becomes s3://***@bucket/x, https://host/x?token=abc becomes https://host/x?token=***.
    """
    return _URL.sub(lambda match: _redact_url(match[0]), text) if ":/" in text else text


def _redact_url(url: str) -> str:
    return _QUERY_VALUE.sub(rf"\1={_HIDDEN}", _USER_INFO.sub(_HIDDEN, url))


class _RedactedStream:
    """A text stream that hides credentials in what passes through it, and is its target in all else."""

    def __init__(self, target: TextIO):
        self._target = target

    def write(self, text: str) -> int:
        """Writes the text without credentials."""
        self._target.write(redact(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


@contextlib.contextmanager
def redacted_output() -> Iterator[None]:
    """Hides credentials in all that is printed while the block runs."""
    with (
        contextlib.redirect_stdout(_RedactedStream(sys.stdout)),  # type: ignore[type-var]
        contextlib.redirect_stderr(_RedactedStream(sys.stderr)),  # type: ignore[type-var]
    ):
        yield
