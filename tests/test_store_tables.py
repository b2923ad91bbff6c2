"""Promises about the notes and tables of a cell store: other values than theirs are an error, not a wrong table."""

import json

import pytest

from beam_jobs import store_tables
from beam_jobs.cell_store import CELLS_TABLE, FOVS_TABLE
from faults import fuzz_cells, fuzz_targets
from hpa_proto import storage
from hpa_proto.errors import DatasetError


@pytest.fixture
def note():
    """FOV and cells of a sound note."""
    content = json.loads(fuzz_targets.TARGETS["fov_note"].seeds()[0])
    return content["fov"], content["cells"]


def test_sound_note_passes(note):
    store_tables.check_note(*note, fov_id="fov")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cell_index", "1"),
        ("cell_index", 1.5),
        ("cell_index", float("nan")),
        ("cell_index", None),
        ("x_min", 1 << 31),
        ("offset_bytes", 1 << 63),
        ("offset_bytes", -(1 << 70)),
        ("labels", ["0"]),
        # Half of a letter, which JSON can write and Parquet cannot.
        ("labels", "\ud800"),
        ("area_um2", "1.0"),
        ("area_um2", 1 << 70),
        ("touches_border", 2),
        ("touches_border", "true"),
        ("fov_id", "another"),
    ],
)
def test_other_value_in_a_cells_row_is_an_error(note, name, value):
    fov, cells = note
    cells[0][name] = value
    with pytest.raises(ValueError, match=name if name != "fov_id" else "speaks of FOV 'another', not 'fov'"):
        store_tables.check_note(fov, cells, fov_id="fov")


@pytest.mark.parametrize(
    ("name", "value"), [("num_bytes", "5"), ("error_reason", None), ("fov_id", "../fov"), ("quality", {"focus": "x"})]
)
def test_other_value_in_a_fovs_row_is_an_error(note, name, value):
    fov, cells = note
    fov[name] = value
    with pytest.raises(ValueError, match=r"wanted|speaks of"):
        store_tables.check_note(fov, cells, fov_id="fov")


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        (CELLS_TABLE, "x_min", ["1"]),
        (CELLS_TABLE, "x_min", [0.5]),
        (CELLS_TABLE, "x_min", [True]),
        (CELLS_TABLE, "labels", [5]),
        (CELLS_TABLE, "labels", [None]),
        (CELLS_TABLE, "labels", [["0"]]),
        (CELLS_TABLE, "touches_border", [1]),
        (CELLS_TABLE, "focus", ["sharp"]),
        (CELLS_TABLE, "file", None),
        (FOVS_TABLE, "num_cells", ["1"]),
        (FOVS_TABLE, "perceptual_hash", None),
        (FOVS_TABLE, "perceptual_hash", [7]),
    ],
)
def test_table_with_other_values_is_an_error_that_names_the_column(table, column, values):
    store = fuzz_cells.finished_store()
    path = storage.join(store.path, table)
    sound = storage.read_table(path)
    changed = sound.drop(columns=column) if values is None else sound.assign(**{column: values})
    storage.write_table(path, changed)
    try:
        with pytest.raises(DatasetError, match=rf"{table}: (no column|column) '{column}'.*make the table again"):
            store.read_tables()
    finally:
        storage.write_table(path, sound)
