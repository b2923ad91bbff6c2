"""The cell store: every cell of every FOV, lossless, with its mask and measurements.

    <store>/config.json                        segmenter, parameters, versions and the digest of what decides the cells
    <store>/fovs/<2 hex digits>/<fov_id>.tfrecord   hpa.Cell messages of one FOV
    <store>/fovs/<2 hex digits>/<fov_id>.jpg        small picture of a FOV that looks wrong (fov_overview)
    <store>/fovs/<2 hex digits>/<fov_id>.json       the FOV's row and its cells' rows, or the error; written last
    <store>/cells.parquet, fovs.parquet, dead_letters.jsonl    made from the .json files at the end of a job

A FOV is finished when its .json file says so under the store's digest and its cells are there. The .json files let a later
job make its tables without opening a hundred gigabytes of pictures. A hundred thousand files in one folder are slow on many
file systems: the two digits, from a hash of the id, fan them out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from google.protobuf import message

from beam_jobs import fov_overview, fov_quality, store_tables
from beam_jobs.store_tables import FovRow
from hpa_proto import cells_pb2, json_text, records, schema, storage
from hpa_proto.errors import ConfigError, DatasetError

_FORMAT_VERSION = 4
_CONFIG = "config.json"
CELLS_TABLE = "cells.parquet"
FOVS_TABLE = "fovs.parquet"
DEAD_LETTERS = "dead_letters.jsonl"
_FOVS = "fovs"
_FOLDER_OF_FOV = re.compile(rf"{_FOVS}/[0-9a-f]{{2}}")
_MAX_RECORD_BYTES = 1 << 30
_ROWS_PER_CHUNK = 20_000
_PACKAGES = ("apache-beam", "numpy", "opencv-python-headless", "scikit-image", "scipy")


def config_digest(config: dict[str, object]) -> str:
    """Digest of everything that decides the cells: 16 hex digits of the SHA-256 of the config's canonical JSON."""
    text = json.dumps({"format_version": _FORMAT_VERSION, **config}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_ids(fov_id: str) -> str:
    """The two hex digits that fan the files out."""
    return hashlib.sha256(fov_id.encode()).hexdigest()[:2]


@dataclasses.dataclass(frozen=True)
class CellStore:
    """A cell store at a local folder or an fsspec URL. Picklable: workers get a copy.

    Attributes:
      path: the folder.
      digest: of the store's config.
    """

    path: str
    digest: str

    @classmethod
    def create(cls, path: str, config: dict[str, object]) -> CellStore:
        """Makes a store, or opens one of the same config to go on with it.

        Args:
          path: folder or URL.
          config: everything that decides the cells, JSON-able.

        Raises:
          ConfigError: the folder holds another config's cells, or other files.
        """
        digest = config_digest(config)
        config_path = storage.join(path, _CONFIG)
        if cls.is_store(path):
            found = cls.open(path)
            if found.digest != digest:
                raise ConfigError(
                    f"{path} holds cells of another config (digest {found.digest}: {json.dumps(found.config())}); "
                    f"this job's is {digest}: {json.dumps(config)}; choose another folder or the same flags"
                )
            return found
        others = storage.list_files(path)
        if others:
            raise ConfigError(f"{path} is not empty and no cell store (found {others[0]}); choose another folder")
        versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
        content = {"digest": digest, "format_version": _FORMAT_VERSION, "config": config, "versions": versions}
        storage.write_text(config_path, json.dumps(content, indent=2, sort_keys=True) + "\n")
        return cls(path, digest)

    @staticmethod
    def is_store(path: str) -> bool:
        """True for a folder that holds a cell store."""
        return storage.exists(storage.join(path, _CONFIG))

    @classmethod
    def open(cls, path: str) -> CellStore:
        """Opens a store.

        Raises:
          ConfigError: there is none.
          DatasetError: its config is damaged.
        """
        config_path = storage.join(path, _CONFIG)
        if not cls.is_store(path):
            raise ConfigError(f"{path} is no cell store (no {_CONFIG}); make one with `python -m beam_jobs.segment`")
        try:
            content = json_text.parse(storage.read_text(config_path))
            digest, version = content["digest"], content["format_version"]
            sound = digest == config_digest(content["config"])
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{config_path}: damaged: {error}") from error
        if version != _FORMAT_VERSION:
            raise ConfigError(
                f"{path} is a cell store of format {version}, this program reads {_FORMAT_VERSION}, which holds the "
                "pixels of cells in another way and knows more of each FOV. Segment again into another folder: "
                "`python -m beam_jobs.segment --cells_dir=<another folder> ...`, the other flags as they were"
            )
        if not sound:
            raise DatasetError(f"{config_path}: its digest {digest} does not fit its config; was it edited?")
        return cls(path, digest)

    def config(self) -> dict[str, object]:
        """Reads what decides the cells."""
        return json.loads(storage.read_text(storage.join(self.path, _CONFIG)))["config"]

    def write_overview(self, fov_id: str, picture: bytes) -> None:
        """Writes the small picture of a FOV that looks wrong."""
        storage.write_bytes(storage.join(self.path, self._file_name(fov_id, "jpg")), picture)

    def read_overview(self, fov_id: str) -> bytes | None:
        """Reads the picture of `write_overview`; None where there is none.

        Raises:
          DatasetError: it is damaged.
        """
        path = storage.join(self.path, self._file_name(fov_id, "jpg"))
        if not storage.exists(path):
            return None
        data = storage.read_bytes(path)
        try:
            fov_overview.decode_overview(data)
        except ValueError as error:
            raise DatasetError(f"{path}: damaged: {error}; delete it: reports go without") from error
        return data

    def write_fov(self, row: FovRow, cells: Iterable[cells_pb2.Cell]) -> FovRow:
        """Writes the cells of one FOV, then the note that it is finished. Returns the row with what was written."""
        frames, rows, offset = [], [], 0
        file = self._file_name(row.fov_id, "tfrecord")
        for cell in cells:
            frames.append(records.frame_record(cell.SerializeToString(deterministic=True)))
            rows.append(store_tables.cell_row(cell, frames[-1], file=file, offset_bytes=offset))
            offset += len(frames[-1])
        storage.write_bytes(storage.join(self.path, file), b"".join(frames))
        row = dataclasses.replace(row, num_cells=len(rows), num_bytes=offset)
        self._write_note(row, rows)
        return row

    def write_dead_fov(self, row: FovRow) -> None:
        """Notes that a FOV failed; a later job tries it again."""
        self._write_note(row, [])

    def finished_fovs(self, fov_ids: Iterable[str]) -> dict[str, int]:
        """Finds FOVs that need no work: FOV id -> size of the images that it was made from, bytes.

        A FOV whose cells are gone or cut short needs work, whatever its note says.
        """
        is_url = storage.is_url(self.path)
        # Of a store's files only the names: it holds them whole or not at all, and each size would be a request.
        stored = set(storage.list_files(self.path)) if is_url else set()

        def has_cells(fov: Mapping[str, Any]) -> bool:
            file = self._file_name(fov["fov_id"], "tfrecord")
            return file in stored if is_url else storage.size(storage.join(self.path, file)) == fov["num_bytes"]

        notes = self._read_notes(fov_ids)
        return {fov["fov_id"]: fov["input_bytes"] for fov, _ in notes if not fov["error_reason"] and has_cells(fov)}

    def remove_temporary_files(self) -> None:
        """Takes away what a killed job left half written. Only for the store's sole job."""
        storage.remove_temporary_files(self.path)

    def clear_notes(self, fov_ids: Iterable[str]) -> None:
        """Takes away old notes, overviews and cells of FOVs that are to be done again: notes count what a run has done."""
        there = set(storage.list_files(self.path))
        for fov_id in fov_ids:
            # The note first: it never speaks of cells that are not there.
            for name in (self._file_name(fov_id, suffix) for suffix in ("json", "jpg", "tfrecord")):
                if name in there:
                    storage.remove(storage.join(self.path, name))

    def count_notes(self) -> int:
        """Number of FOVs that are finished or failed: what a progress bar shows."""
        return sum(name.endswith(".json") for name in storage.list_files(storage.join(self.path, _FOVS)))

    def write_tables(
        self,
        labels: Mapping[str, str],
        *,
        extra_columns: Mapping[str, Mapping[str, str]] = types.MappingProxyType({}),
        unusable: Iterable[FovRow] = (),
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Makes cells.parquet, fovs.parquet and dead_letters.jsonl.

        Args:
          labels: FOV id -> Kaggle's text of its labels, for the FOVs that the tables are to have. These labels count, not
            those of the day when a FOV was segmented: a corrected label file costs no segmentation.
          extra_columns: FOV id -> further columns by name, as antibody or plate.
          unusable: rows of FOVs that were never tried.

        Returns:
          The cell table and the FOV table, sorted by FOV id and cell index.
        """
        fov_rows, cell_chunks, pending = [dataclasses.asdict(row) for row in unusable], [], []
        for fov, rows in self._read_notes(labels):
            fov_rows.append(fov)
            pending += rows
            # A row as a dict takes ten times the memory of a row of a table.
            if len(pending) > _ROWS_PER_CHUNK:
                cell_chunks.append(store_tables.cell_table(pending))
                pending = []
        cell_chunks.append(store_tables.cell_table(pending))
        fovs = store_tables.fov_table(fov_rows)
        cells = pd.concat(cell_chunks).sort_values(["fov_id", "cell_index"], ignore_index=True)
        cells = cells.join(fov_quality.flag_cells(cells))
        for table in (cells, fovs):
            table["labels"] = table["fov_id"].map(labels).fillna("").astype("str")
            for name in sorted({name for extra in extra_columns.values() for name in extra}):
                values = {fov_id: extra[name] for fov_id, extra in extra_columns.items()}
                table[name] = table["fov_id"].map(values).fillna("").astype("str")
        dead = fovs[fovs["error_reason"] != ""]
        lines = [
            json.dumps(
                {"fov": row.fov_id, "stage": row.error_stage, "reason": row.error_reason, "detail": row.error_detail}
            )
            for row in dead.itertuples()
        ]
        storage.write_table(storage.join(self.path, CELLS_TABLE), cells)
        storage.write_table(storage.join(self.path, FOVS_TABLE), fovs)
        storage.write_text(storage.join(self.path, DEAD_LETTERS), "".join(line + "\n" for line in lines))
        return cells, fovs

    def read_tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Reads the cell table and the FOV table.

        Raises:
          ConfigError: the job that makes them has not finished.
          DatasetError: one is damaged, or lacks a column, or has other values in one.
        """
        path = storage.join(self.path, CELLS_TABLE)
        if not storage.exists(path):
            raise ConfigError(
                f"{path} is not there: segmenting has not finished; run `python -m beam_jobs.segment` again"
            )
        fovs_path = storage.join(self.path, FOVS_TABLE)
        cells, fovs = storage.read_table(path), storage.read_table(fovs_path)
        store_tables.check_table(cells, store_tables.CELL_COLUMNS | fov_quality.FLAG_TYPES, path=path)
        store_tables.check_table(fovs, store_tables.FOV_COLUMNS, path=fovs_path)
        return cells, fovs

    def read_cell(self, file: str, *, offset_bytes: int, length_bytes: int) -> cells_pb2.Cell:
        """Reads one cell by its row's file, offset and length; errors as `read_cells`."""
        return next(self.read_cells([(file, offset_bytes, length_bytes)]))

    def read_cells(self, places: Sequence[tuple[str, int, int]]) -> Iterator[cells_pb2.Cell]:
        """Reads cells, one after the other, by their rows' file, offset and length; from an object store a few ahead.

        Raises:
          DatasetError: missing, cut short or altered; the text names file and offset, and says how to mend it. Or a row
            that names no place in the store.
          OSError: the file is not readable.
        """
        again = "run `python -m beam_jobs.segment` again"
        ranges = [(self._path_of_cell(*place), *place[1:]) for place in places]
        frames = storage.read_ranges(ranges)
        for path, offset_bytes, _ in ranges:
            try:
                frame = records.unframe_record(next(frames), path=path, offset=offset_bytes)
                cell = cells_pb2.Cell.FromString(frame)
            except FileNotFoundError as error:
                raise DatasetError(f"{path}: missing; {again}") from error
            except DatasetError as error:
                raise DatasetError(f"{error}; delete the file and {again}") from error
            except message.DecodeError as error:
                raise DatasetError(
                    f"{path}: not a cell at byte {offset_bytes}: {error}; delete the file and {again}"
                ) from error
            yield cell

    def _path_of_cell(self, file: str, offset_bytes: int, length_bytes: int) -> str:
        folder, _, name = file.rpartition("/")
        is_own_file = _FOLDER_OF_FOV.fullmatch(folder) and schema.is_file_name(name)
        if not is_own_file or offset_bytes < 0 or not 0 <= length_bytes <= _MAX_RECORD_BYTES:
            raise DatasetError(
                f"{storage.join(self.path, CELLS_TABLE)}: a cell at byte {offset_bytes} of {file!r}, {length_bytes} bytes: "
                "no place in a cell store; make the table again with `python -m beam_jobs.segment`"
            )
        return storage.join(self.path, file)

    def _file_name(self, fov_id: str, suffix: str) -> str:
        return storage.join(_FOVS, digest_of_ids(fov_id), f"{fov_id}.{suffix}")

    def _write_note(self, row: FovRow, rows: list[dict[str, object]]) -> None:
        note = {"digest": self.digest, "fov": dataclasses.asdict(row), "cells": rows}
        storage.write_text(
            storage.join(self.path, self._file_name(row.fov_id, "json")), json.dumps(note, sort_keys=True)
        )

    def _read_notes(self, fov_ids: Iterable[str]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Yields the FOV's row and its cells' rows of each note, in no order that means anything."""
        wanted = {self._file_name(fov_id, "json").removeprefix(f"{_FOVS}/"): fov_id for fov_id in fov_ids}
        folder = storage.join(self.path, _FOVS)
        names = [name for name in storage.list_files(folder) if name in wanted]
        for name, data in zip(names, storage.read_many(storage.join(folder, name) for name in names), strict=True):
            try:
                note = json_text.parse(data)
                if note["digest"] != self.digest:
                    continue
                fov, cells = note["fov"], note["cells"]
                store_tables.check_note(fov, cells, fov_id=wanted[name])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DatasetError(
                    f"{storage.join(folder, name)}: damaged: {error}; delete it and run again"
                ) from error
            yield fov, cells
