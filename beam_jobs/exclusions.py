"""Lists of cells to leave out, as a person or a page that shows doubtful cells writes them."""

from __future__ import annotations

import csv
import io

from hpa_proto import storage
from hpa_proto.errors import ConfigError

_COLUMN = "cell_id"


def read_exclusions(path: str) -> tuple[str, ...]:
    """Reads ids of cells: one a line, the header cell_id allowed, or a CSV with the column cell_id among others.

    Empty lines mean nothing, and an id may stand twice. A list with a header alone is empty.

    Returns:
      The ids in the order of the file.

    Raises:
      ConfigError: not readable, empty, or lines with several values and no column cell_id.
    """
    try:
        reader = csv.reader(io.StringIO(storage.read_bytes(path).decode("utf-8-sig"), newline=""))
        rows = [(reader.line_num, row) for row in reader if any(value.strip() for value in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: not a readable list of cell ids: {error}") from error
    if not rows:
        raise ConfigError(f"{path}: no cell id in it; give one a line, as <fov_id>_<cell_index>")
    header = [value.strip() for value in rows[0][1]]
    has_header = _COLUMN in header
    position, num_values = (header.index(_COLUMN), len(header)) if has_header else (0, 1)
    ids = {}
    for line, row in rows[has_header:]:
        if len(row) != num_values or not row[position].strip():
            raise ConfigError(
                f"{path}, line {line}: found {','.join(row)!r}; give one cell id a line, or a comma-separated table with the "
                f"column {_COLUMN}"
            )
        ids[row[position].strip()] = None
    return tuple(ids)
