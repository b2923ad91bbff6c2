"""Promises of beam_jobs.cell_labels: labels of single cells, how they are written, every fault, what a plan makes of them."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cell_tables
import small_dataset
from beam_jobs import cell_labels, dataset_check, dataset_job, dry_run
from beam_jobs import plan as plan_lib
from beam_jobs.dataset_job import ShardConfig
from beam_jobs.dry_run import DryRunConfig
from beam_jobs.examples import ExampleConfig
from beam_jobs.plan_config import PlanConfig
from hpa_proto import schema
from hpa_proto.errors import ConfigError


def write(tmp_path, text):
    (tmp_path / "own.csv").write_bytes(text.encode())
    return str(tmp_path / "own.csv")


def write_parquet(tmp_path, metadata=None, **columns):
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "own.parquet")
    return str(tmp_path / "own.parquet")


def plan_of(tmp_path, text, **config):
    """Plans a table of four FOVs ("0", "5", "0|5" and none) of two cells with a file of cell labels."""
    cells = cell_tables.make_cell_table(["0", "5", "0|5", ""], num_cells=2)
    own = cell_labels.read_cell_labels(write(tmp_path, text))
    config = PlanConfig(**{"splits": (("train", 1),), **config})
    return plan_lib.make_plan(cell_labels.replace_labels(cells, own), config).set_index("cell_id")


@pytest.mark.parametrize(
    "text",
    [
        "cell_id,labels\na_1,5|0\nb_2,\n",
        "\ufeffcell_id,labels\r\na_1,0|5|0\r\n\r\nb_2,\r\n",
        "ID,Label\na_1,0|5\nb_2,\n",
        'score,labels,cell_id\n0.5,Nucleoplasm|nuclear bodies, a_1\n"0,1",, b_2 \n',
    ],
)
def test_every_way_to_write_a_csv_reads_the_same(tmp_path, text):
    assert cell_labels.read_cell_labels(write(tmp_path, text)).texts.to_dict() == {"a_1": "0|5", "b_2": ""}


@pytest.mark.parametrize("labels", [[[5, 0], []], ["5|0", ""], pa.array(["0|5", ""]).dictionary_encode()])
def test_every_way_to_write_parquet_reads_the_same(tmp_path, labels):
    own = cell_labels.read_cell_labels(write_parquet(tmp_path, cell_id=["a_1", "b_2"], labels=labels))
    assert own.texts.to_dict() == {"a_1": "0|5", "b_2": ""}
    assert own.about == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: found the columns \[\]; give cell_id and labels or ID and Label"),
        ("cell_id;labels\na_1;0\n", "line 1: found the columns .'cell_id;labels'.; give"),
        ("cell_id,label\na_1,0\n", "line 1: found the columns"),
        ("cell_id,labels,labels\na_1,0,1\n", "line 1: found the columns"),
        ("cell_id,labels\na_1,0\nb_2,19\n", r"line 3: cell b_2: label 19 is not in 0\.\.18"),
        ("cell_id,labels\na_1,0\nb_2,-1\n", "line 3: cell b_2: label '-1' is neither"),
        ("cell_id,labels\na_1,0;5\n", "line 2: cell a_1: label '0;5' is neither"),
        ("cell_id,labels\na_1,Nucleus\n", "line 2: cell a_1: label 'Nucleus' is neither"),
        ("cell_id,labels\na_1,0|\n", "line 2: cell a_1: label '' is neither"),
        ("cell_id,labels\na_1,0\nb_2,0\na_1,5\n", "line 4: cell a_1 stands twice"),
        ("cell_id,labels\na_1,0\n,5\n", "line 3: found '' for a cell id"),
        ("cell_id,labels\na_1,0\nb_2\n", "line 3: found 'b_2', 1 values where the header has 2"),
        ("cell_id,labels\na_1,0,5\n", "line 2: found 'a_1,0,5', 3 values"),
    ],
)
def test_fault_of_a_csv_names_file_line_and_value(tmp_path, text, message):
    with pytest.raises(ConfigError, match=f"^{tmp_path}/own.csv, {message}"):
        cell_labels.read_cell_labels(write(tmp_path, text))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"cell_id": ["a_1"], "label": [[0]]}, "own.parquet: found the columns .*give cell_id and labels"),
        (
            {"cell_id": ["a_1", "b_2"], "labels": [[0], [19]]},
            r"own.parquet, row 1: cell b_2: label 19 is not in 0\.\.18",
        ),
        ({"cell_id": ["a_1", "b_2"], "labels": [[0], None]}, "own.parquet, row 1: cell b_2: found None for labels"),
        ({"cell_id": ["a_1"], "labels": [[0.5]]}, "own.parquet, row 0: cell a_1: label '0.5' is neither"),
        ({"cell_id": ["a_1"], "labels": [0]}, "own.parquet, row 0: cell a_1: found 0 for labels"),
        ({"cell_id": [1], "labels": [[0]]}, "own.parquet, row 0: found 1 for a cell id"),
        ({"cell_id": ["a_1", "a_1"], "labels": [[0], [0]]}, "own.parquet, row 1: cell a_1 stands twice"),
    ],
)
def test_fault_of_parquet_names_file_row_and_value(tmp_path, columns, message):
    with pytest.raises(ConfigError, match=message):
        cell_labels.read_cell_labels(write_parquet(tmp_path, **columns))


@pytest.mark.parametrize("data", [b"cell_id,labels\na_1,\xff\n", b"PAR1 and no more", b'cell_id,labels\n"a_1,0\n'])
def test_damaged_file_is_an_error(tmp_path, data):
    (tmp_path / "own").write_bytes(data)
    with pytest.raises(ConfigError, match=f"{tmp_path}/own"):
        cell_labels.read_cell_labels(f"{tmp_path}/own")


def test_missing_file_and_metadata_that_are_no_json_are_errors(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.csv: not a readable"):
        cell_labels.read_cell_labels(f"{tmp_path}/none.csv")
    for text in (b"{", b"[]"):
        path = write_parquet(tmp_path, {schema.CELL_LABELS_KEY: text}, cell_id=["a_1"], labels=["0"])
        with pytest.raises(ConfigError, match=r"own\.parquet"):
            cell_labels.read_cell_labels(path)


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "-Infinity",
        "1e999",
        "9" * 400,
        "9" * 5000,
        '{"a":' * 200 + "1" + "}" * 200,
        "[" * 500 + "]" * 500,
        '"\\ud800"',
        '{"\\ud800": 1}',
    ],
    ids=lambda text: text[:8],
)
def test_metadata_that_no_manifest_takes_are_an_error(tmp_path, text):
    metadata = {schema.CELL_LABELS_KEY: f'{{"about": {text}}}'}
    path = write_parquet(tmp_path, metadata, cell_id=["a_1"], labels=["0"])
    with pytest.raises(ConfigError, match=r"own\.parquet: .*(cannot stand in a manifest|not a readable)"):
        cell_labels.read_cell_labels(path)


def test_unknown_ids_are_counted_and_the_first_named(tmp_path):
    with pytest.raises(ConfigError, match=r"own\.csv: 4 ids are not in the cell store, first x_1, x_2, x_3; give"):
        plan_of(tmp_path, "cell_id,labels\nx_3,0\nx_1,0\nfov0_1,0\nx_2,0\nx_4,\n")


def test_named_cells_get_their_labels_and_the_others_keep_their_fovs(tmp_path):
    plan = plan_of(tmp_path, "cell_id,labels\nfov0_1,18\nfov2_1,5\nfov3_2,0|16\n", label_scope="all")
    assert plan["example_labels"].to_dict() == {
        "fov0_1": "18",
        "fov0_2": "0",
        "fov1_1": "5",
        "fov1_2": "5",
        "fov2_1": "5",
        "fov2_2": "0|5",
        "fov3_1": "",
        "fov3_2": "0|16",
    }
    assert plan.loc["fov0_1", ["labels", "fov_labels", "relabelled"]].tolist() == ["18", "0", True]
    assert plan["relabelled"].sum() == 3


def test_label_scope_counts_a_cells_own_labels(tmp_path):
    plan = plan_of(tmp_path, "cell_id,labels\nfov0_1,0|5\nfov1_1,\nfov2_1,5\n", label_scope="single")
    assert plan["dropped"].to_dict() == {
        "fov0_1": "multi_label_cell",
        "fov0_2": "",
        "fov1_1": "no_cell_label",
        "fov1_2": "",
        "fov2_1": "",
        "fov2_2": "multi_label_fov",
        "fov3_1": "unlabelled",
        "fov3_2": "unlabelled",
    }


def test_data_set_has_the_cells_labels_and_its_manifest_says_from_where(tmp_path):
    made = small_dataset.make(tmp_path / "made")
    cells = pd.read_parquet(made.cells_dir / "cells.parquet", columns=["cell_id", "labels"])
    cells["labels"] = ["", "2"] + ["7"] * (len(cells) - 2)
    about = {schema.CELL_LABELS_KEY: json.dumps({"thresholds": {"7": 0.25}})}
    path = write_parquet(tmp_path, about, **{name: list(cells[name]) for name in cells})
    plan = PlanConfig(label_scope="all", splits=(("train", 1),))
    config = ShardConfig(
        cells_dir=str(made.cells_dir),
        data_dir=str(tmp_path / "own"),
        plan=plan,
        example=ExampleConfig(image_size_px=32),
        cell_labels=path,
    )
    result = dataset_job.run(config)
    assert dict(result.manifest.splits[0].num_examples_per_label) == {2: 1, 7: len(cells) - 2}
    assert result.summary.dropped == {"no_cell_label": 1}
    recorded = json.loads((tmp_path / "own" / "manifest.json").read_text())["cell_labels"]
    assert (recorded["file"], recorded["num_cells"]) == (path, len(cells))
    assert (len(recorded["sha256"]), recorded["about"]) == (64, {"thresholds": {"7": 0.25}})
    checked = dataset_check.read_plan(str(tmp_path / "own"))
    dataset_check.check_plan(checked, result.manifest, path="plan")

    dry = dry_run.run(DryRunConfig(cells_dir=str(made.cells_dir), plan=plan, cell_labels=path))
    assert dry.summary.per_class.equals(result.summary.per_class)
    assert (dry.summary.num_kept, dry.summary.dropped) == (len(cells) - 1, {"no_cell_label": 1})


def test_labels_for_a_set_without_labels_are_refused(tmp_path):
    made = small_dataset.make(tmp_path / "made", num_fovs=2)
    own = cell_labels.read_cell_labels(write(tmp_path, "cell_id,labels\nfov-0_1,0\n"))
    plan = PlanConfig(label_scope="unlabelled", splits=(("predict", 1),))
    with pytest.raises(ConfigError, match=r"own\.csv: label scope unlabelled takes no labels"):
        dataset_job.make_plan(dataset_job.CellStore.open(str(made.cells_dir)), plan, splits_of=None, own_labels=own)
