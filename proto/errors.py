"""The errors that both halves of the project raise on purpose. Everything else is a bug and may fail loudly.

Their texts are written to tables, reports and logs: credentials in URLs are hidden in them.
"""

import errno
from collections.abc import Iterable

from hpa_proto.redaction import redact

# The exit status that shells expect of a command that was stopped so.
STATUS_OF_CTRL_C = 130


class FovError(ValueError):
    """A field of view that cannot be used. The job writes it to the dead letters and goes on.

    Attributes:
      stage: where it failed: "read", "segment" or "cut".
      reason: short and countable, snake_case: "missing_channel", "unreadable_image", "no_cells", ...
      detail: what was found, where, and what to do.
    """

    def __init__(self, stage: str, reason: str, detail: str):
        detail = redact(detail)
        super().__init__(stage, reason, detail)
        self.stage = stage
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.detail} [{self.stage}: {self.reason}]"


class DatasetError(ValueError):
    """A data set or cell store that is not what its manifest or config says: the text names the file and the offset."""

    def __init__(self, text: str):
        super().__init__(redact(text))


class ConfigError(ValueError):
    """A flag or an input table that cannot work. Found before the first pixel is read; the text says what to do."""

    def __init__(self, text: str):
        super().__init__(redact(text))


def reason_of(error: BaseException) -> str:
    """Writes in one line why something went wrong; of an error about a file "no such file or directory", without number."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


def explain(error: BaseException, given: Iterable[tuple[str, object, str]]) -> str:
    """Writes an error in one line for the user of a command; one about a file names the flag that the file is of.

    Args:
      error: what ended the command.
      given: (name, value, help) of the command's flags.
    """
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return reason_of(error)
    path, reason = error.filename, reason_of(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path}: {reason}; make room and run the same command again"
    for name, value, help_text in given:
        if isinstance(value, str) and value and (path == value or path.startswith(f"{value.rstrip('/')}/")):
            wanted = (
                f"; wanted: {help_text.rstrip('.')}"
                if isinstance(error, FileNotFoundError | NotADirectoryError)
                else ""
            )
            return f"--{name}={value}: {'' if path == value else f'{path}: '}{reason}{wanted}"
    return f"{path}: {reason}"
