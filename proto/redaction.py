"""Keeps credentials that stand in URLs or flags out of everything that is written or printed.

Credentials belong into the environment or the provider's own files. Where a URL has some all the same
(https://user:password@host/x, ...?X-Amz-Signature=...), or a flag (Beam's --s3_secret_access_key), no manifest, report,
log or error shows them. Where it cannot be told what belongs to a secret, rather too much is hidden than too little.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

_HIDDEN = "***"
# Up to the last @. A secret key may have a slash in it, written as it is: after a colon nothing but a blank, or the next URL,
# ends the password.
_USER_INFO = re.compile(r"(?<=\w)(:/{1,2})(?:[^\s/@]*:(?:(?!://)\S)*|[^\s/?#]*)@")
_URL = re.compile(r"(?<=\w):/{1,2}\S+")
# A comma, a quote or a semicolon may be part of a value; a mark behind the last one is the sentence's.
_QUERY_VALUE = re.compile(
    r"(?<=[?&;#])([\w.-]+)=(?:(?![;#][\w.-]+=)[^\s&])+?(?=['\",;:.)\]]{0,9}(?:[\s&]|[;#][\w.-]+=|$))"
)
# Names of flags and variables, as s3_session_token. What sorts is no secret; a word with "key" in it (monkey) is none.
# Short ones: a text of somebody else's must not take long to look through.
_KEY = r"(?<![a-z])(?<!sort[_-])(?:access|account|api)?key(?![a-z])"
_SECRET_NAME = rf"[\w-]{{0,60}}(?:secret|token|passw|passphrase|credential|{_KEY})[\w-]{{0,60}}"
_SECRET_FLAG = re.compile(rf"--?{_SECRET_NAME}", re.IGNORECASE)
_SECRET_FLAG_VALUE = re.compile(rf"(?<!\S)(['\"]?--?{_SECRET_NAME}(?:=|\s+(?!-)))\S+", re.IGNORECASE)
# Within the value of another flag, as of Beam's --environment_config, too: "AWS_SECRET_ACCESS_KEY": "...".
_SECRET_ASSIGNMENT = re.compile(rf"(?<![\w-])({_SECRET_NAME}(?:=|\"\s*:\s*)).+", re.IGNORECASE | re.DOTALL)


def redact(text: str) -> str:
    """Hides what may be secret in a text.

    In every URL user and password, and the values of a query: s3://key:secret@bucket/x becomes s3://***@bucket/x,
    https://host/x?token=abc becomes https://host/x?token=***. Of flags named after a secret the values, up to a blank.
    """
    if ":/" in text:
        text = _URL.sub(
            lambda match: _QUERY_VALUE.sub(rf"\1={_HIDDEN}", match[0]), _USER_INFO.sub(rf"\1{_HIDDEN}@", text)
        )
    return _SECRET_FLAG_VALUE.sub(rf"\1{_HIDDEN}", text) if "-" in text else text


def redact_arguments(arguments: Iterable[str]) -> list[str]:
    """Hides what may be secret in a command line: as `redact`, and the whole values of flags named after a secret."""
    shown: list[str] = []
    is_secret = False
    for argument in arguments:
        is_secret = is_secret and not argument.startswith("-")
        shown.append(_HIDDEN if is_secret else _SECRET_ASSIGNMENT.sub(rf"\1{_HIDDEN}", redact(argument)))
        is_secret = _SECRET_FLAG.fullmatch(argument) is not None
    return shown


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
