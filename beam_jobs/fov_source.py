"""Finds the fields of view (FOVs) of a job: which ids, which files, which labels. No pixel is read here.

Files: one grey image a channel, `<id>_red.png` and so on (PNG, JPEG or TIFF), or one multi-channel TIFF, `<id>.tif` or
`<id>.ome.tif`. Labels: a CSV with the columns ID and Label, as Kaggle has it.
"""

from __future__ import annotations

import csv
import dataclasses
import glob
import io
import os
import re
from collections.abc import Iterator

from hpa_proto import labels as hpa_labels
from hpa_proto import object_store, schema, storage
from hpa_proto.errors import ConfigError

ALL_CHANNELS = "all"  # key of a multi-channel file in FovRef.paths
_FILE_NAME = re.compile(
    r"(?P<fov_id>.+?)(?:_(?P<channel>red|green|blue|yellow))?(?:\.ome)?\.(?:png|jpe?g|tiff?)", re.I | re.S
)
_FOV_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_ID_LENGTH = 200
_LABEL_COLUMNS = ("ID", "Label")


@dataclasses.dataclass(frozen=True)
class FovRef:
    """A field of view that is to be read.

    Attributes:
      fov_id: Kaggle's ID.
      paths: (channel, path) pairs, sorted; one pair ("all", path) for a multi-channel file. Channels may be missing or
        stand twice: reading such a FOV is an error.
      labels: Kaggle's numbers, ascending; empty in a set without labels; None where the label file lacks this FOV.
    """

    fov_id: str
    paths: tuple[tuple[str, str], ...]
    labels: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class FovListing:
    """What a job is to read.

    Attributes:
      fovs: sorted by id.
      labels_without_image: ids of the label file that have no file, sorted. No error: a folder is often a part of a set.
      extra_columns: FOV id -> further columns of the label file, such as antibody or plate, by name.
      unusable_names: (what would be the id, why not) of files whose names cannot be used.
    """

    fovs: tuple[FovRef, ...]
    labels_without_image: tuple[str, ...] = ()
    extra_columns: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    unusable_names: tuple[tuple[str, str], ...] = ()


def find_fovs(images: str, labels: str | None) -> FovListing:
    """Lists the FOVs of a folder, a glob or a CSV of paths, with their labels.

    Args:
      images: a folder (searched without its subfolders), a glob ("plates/*/*.png"), or a CSV with the column ID and either
        red, green, blue, yellow (a path each) or path (a multi-channel TIFF). Relative paths in a CSV start at its folder.
      labels: CSV with the columns ID and Label; None for a set without labels.

    Raises:
      ConfigError: no such input, nothing in it, or a fault in a table (the text names file, line and value).
    """
    unusable: dict[str, str] = {}
    paths = _paths_of_csv(images) if images.lower().endswith(".csv") else _paths_of_folder(images, unusable)
    if not paths:
        raise ConfigError(
            f"no FOV in {images}: looked for <id>_red.png, <id>_green.png, <id>_blue.png, <id>_yellow.png "
            "(or .jpg, .tif) and <id>.tif; make some with `python -m beam_jobs.synthesize`"
        )
    if not labels:
        fovs = tuple(FovRef(fov_id, tuple(sorted(paths[fov_id])), ()) for fov_id in sorted(paths))
        return FovListing(fovs, unusable_names=tuple(sorted(unusable.items())))
    rows = dict(_label_rows(labels))
    label_sets = {fov_id: tuple(sorted(set(written))) for fov_id, (written, _) in rows.items()}
    unmatched = tuple(sorted(label_sets.keys() - paths.keys()))
    if len(unmatched) == len(label_sets):
        raise ConfigError(f"no ID of {labels} has an image in {images}, as in {unmatched[0]}; are these of one set?")
    return FovListing(
        tuple(FovRef(fov_id, tuple(sorted(paths[fov_id])), label_sets.get(fov_id)) for fov_id in sorted(paths)),
        unmatched,
        {fov_id: extra for fov_id, (_, extra) in rows.items() if fov_id in paths},
        tuple(sorted(unusable.items())),
    )


def label_columns(path: str) -> tuple[str, ...]:
    """Reads the names of a label file's further columns.

    Raises:
      ConfigError: not a label file.
    """
    rows = _read_csv(path, required=_LABEL_COLUMNS)
    return tuple(column for column in (rows[0][1] if rows else ()) if column not in _LABEL_COLUMNS)


def read_labels(path: str) -> dict[str, tuple[int, ...]]:
    """Reads a label file: FOV id -> labels (Kaggle's numbers, ascending; numbers or class names in the file).

    Raises:
      ConfigError: a fault; the text names file, line and value.
    """
    return {fov_id: tuple(sorted(set(written))) for fov_id, written in read_written_labels(path).items()}


def read_written_labels(path: str) -> dict[str, tuple[int, ...]]:
    """Reads a label file as it is written: FOV id -> labels in the order of the file, repeats as in "13|13" kept.

    Raises:
      ConfigError: a fault; the text names file, line and value.
    """
    return {fov_id: written for fov_id, (written, _) in _label_rows(path)}


def _label_rows(path: str) -> Iterator[tuple[str, tuple[tuple[int, ...], dict[str, str]]]]:
    """Yields FOV id, labels as written and further columns of each row of a label file."""
    seen = set()
    for line, row in _read_csv(path, required=_LABEL_COLUMNS):
        fov_id = check_id(row["ID"], path, line)
        if fov_id in seen:
            raise ConfigError(f"{path}, line {line}: ID {fov_id} stands twice")
        seen.add(fov_id)
        try:
            written = hpa_labels.parse_written_labels(row["Label"])
        except ValueError as error:
            raise ConfigError(f"{path}, line {line}: FOV {fov_id}: {error}") from error
        if not written:
            raise ConfigError(f"{path}, line {line}: FOV {fov_id} has no label; remove the row or give one")
        yield fov_id, (written, {column: row[column] for column in row if column not in _LABEL_COLUMNS})


def _read_csv(path: str, *, required: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable CSV file: {error}") from error
    reader = csv.DictReader(io.StringIO(text))
    rows = []
    try:
        header = reader.fieldnames or []
        missing = [column for column in required if column not in header]
        if missing:
            raise ConfigError(f"{path}, line 1: no column {', '.join(missing)} (comma-separated); found {header}")
        for row in reader:
            if None in row or None in row.values():
                raise ConfigError(f"{path}, line {reader.line_num}: not as many values as the header has: {row}")
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: {error}; is a quote left open?") from error
    return rows


def check_id(fov_id: str, source: str, line: int | None = None) -> str:
    """Checks that a text can be the id of a FOV, and returns it.

    Args:
      fov_id: the text.
      source: where it stands, for the error.
      line: likewise.

    Raises:
      ConfigError: it cannot.
    """
    # Ids become file names: no path parts, nothing hidden, nothing that a shell or a URL reads otherwise.
    if not _FOV_ID.fullmatch(fov_id) or ".." in fov_id or len(fov_id) > _MAX_ID_LENGTH:
        where = source if line is None else f"{source}, line {line}"
        raise ConfigError(
            f"{where}: ID {fov_id!r} cannot be used: an ID is at most {_MAX_ID_LENGTH} letters, digits, '-', '_', '.', "
            "starts with a letter or digit and has no '/' and no '..'"
        )
    return fov_id


def _paths_of_csv(path: str) -> dict[str, list[tuple[str, str]]]:
    rows = _read_csv(path, required=("ID",))
    columns = (*schema.CHANNELS, "path")
    if rows and not any(column in rows[0][1] for column in columns):
        raise ConfigError(f"{path}, line 1: no column with paths; add {', '.join(schema.CHANNELS)}, or path for a TIFF")
    folder = os.path.dirname(path)
    found: dict[str, list[tuple[str, str]]] = {}
    for line, row in rows:
        fov_id = check_id(row["ID"], path, line)
        if fov_id in found:
            raise ConfigError(f"{path}, line {line}: ID {fov_id} stands twice")
        found[fov_id] = [
            (ALL_CHANNELS if column == "path" else column, _resolve(row[column], folder))
            for column in columns
            if row.get(column)
        ]
    return found


def _resolve(path: str, folder: str) -> str:
    return path if storage.is_url(path) or os.path.isabs(path) or not folder else storage.join(folder, path)


def _paths_of_folder(images: str, unusable: dict[str, str]) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for path in _matches(images):
        match = _FILE_NAME.fullmatch(os.path.basename(path))
        if match is None:
            continue
        # A picture without a channel in its name is a FOV only where it can hold four channels.
        channel = match["channel"].lower() if match["channel"] else ALL_CHANNELS
        if channel == ALL_CHANNELS and not path.lower().endswith((".tif", ".tiff")):
            continue
        try:
            found.setdefault(check_id(match["fov_id"], path), []).append((channel, path))
        except ConfigError as error:
            # One file with a space in its name must not stop the others.
            unusable[match["fov_id"]] = str(error)
    return found


def _matches(images: str) -> list[str]:
    is_glob = any(mark in images for mark in "*?[")
    if storage.is_url(images):
        with object_store.opened(images) as (filesystem, name):
            names = filesystem.glob(name) if is_glob else filesystem.ls(name, detail=False)
            matches = [filesystem.unstrip_protocol(match) for match in names]
    else:
        if not is_glob and not os.path.isdir(images):
            raise ConfigError(f"{images}: no such folder; --images takes a folder, a glob in quotes, or a CSV of paths")
        matches = glob.glob(images if is_glob else os.path.join(glob.escape(images), "*"), recursive=True)
    return sorted(matches)
