"""JSON of files that somebody else may have written."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """Reads JSON as `json.loads` does, whose error for lists within lists without end is no ValueError.

    Raises:
      ValueError: not JSON, or nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error
