"""predictions.parquet: what is written is read; what cannot be is an error that names file and cell."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpa_proto.errors import DatasetError
from trainer import predictions
from trainer.predictions import ClassInfo, PredictionsInfo

CLASSES = (ClassInfo(16, "Cytosol"), ClassInfo(0, "Nucleoplasm"), ClassInfo(14, "Mitochondria"))
INFO = PredictionsInfo(
    classes=CLASSES,
    label_scope="all",
    multi_label=True,
    split="test",
    manifest_sha256="0" * 64,
    runs=({"name": "first", "run_dir": "first", "checkpoint": "best", "epoch": 4, "model": "tiny"},),
    tta=False,
)


def make_batch(first, num_cells, *, num_features=None, **changes):
    rng = np.random.default_rng(first)
    logits = rng.normal(size=(num_cells, 3)).astype(np.float32)
    batch = {
        "cell_id": [f"a_fov_{(first + i) // 5}_{first + i}" for i in range(num_cells)],
        "labels": rng.integers(0, 2, (num_cells, 3)).astype(np.float32),
        "logits": logits,
        "probabilities": 1 / (1 + np.exp(-logits)),
    }
    if num_features:
        batch["embedding"] = rng.normal(size=(num_cells, num_features)).astype(np.float32)
    return {**batch, **changes}


def rewrite(path, **columns):
    """Writes a file again with other columns; None takes one away."""
    table = pq.read_table(path)
    for name, values in columns.items():
        index = table.schema.names.index(name)
        table = table.remove_column(index)
        if values is not None:
            table = table.add_column(index, name, values)
    pq.write_table(table, path)


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "predictions.parquet")
    predictions.write_predictions(path, INFO, [make_batch(0, 7, num_features=4)])
    return path


def test_what_is_written_is_read(tmp_path):
    path = str(tmp_path / "new" / "predictions.parquet")
    batches = [make_batch(0, 7, num_features=4), make_batch(7, 2, num_features=4)]
    assert predictions.write_predictions(path, INFO, iter(batches)) == 9
    found = predictions.read_predictions(path)
    assert found.info == INFO == predictions.read_info(path)
    assert (found.num_cells, found.class_names) == (9, ["Cytosol", "Nucleoplasm", "Mitochondria"])
    assert found.cell_ids.tolist() == [f"a_fov_{i // 5}_{i}" for i in range(9)]
    assert found.fov_ids.tolist() == [f"a_fov_{i // 5}" for i in range(9)]
    names = {"labels": found.labels, "logits": found.logits, "probabilities": found.probabilities}
    for name, array in {**names, "embedding": found.embeddings}.items():
        np.testing.assert_array_equal(array, np.concatenate([batch[name] for batch in batches]))
        assert array.dtype == np.float32
    assert not list(tmp_path.glob("new/.tmp*"))


def test_the_file_is_for_any_parquet_reader(path):
    table = pq.read_table(path)
    batch = make_batch(0, 7, num_features=4)
    assert table.schema.names == ["cell_id", "fov_id", "labels", "logits", "probabilities", "embedding"]
    assert table["labels"].to_pylist() == [
        sorted(CLASSES[k].label for k in np.flatnonzero(row)) for row in batch["labels"]
    ]
    content = json.loads(table.schema.metadata[b"hpa_predictions"])
    assert content["schema_version"] == 1
    assert content["classes"][0] == {"label": 16, "name": "Cytosol"}


def test_unlabelled_cells_have_no_labels(tmp_path):
    path = str(tmp_path / "p.parquet")
    predictions.write_predictions(path, INFO, [make_batch(0, 3, labels=np.zeros((3, 3)))])
    assert pq.read_table(path)["labels"].to_pylist() == [[], [], []]
    found = predictions.read_predictions(path)
    assert not found.labels.any()
    assert found.embeddings is None


def test_many_batches_make_few_row_groups_and_stream_back(tmp_path):
    path = str(tmp_path / "p.parquet")
    predictions.write_predictions(path, INFO, (make_batch(i, 100) for i in range(0, 10_000, 100)))
    assert pq.ParquetFile(path).num_row_groups == 3
    whole = predictions.read_predictions(path)
    parts = list(predictions.iter_predictions(path, batch_rows=999))
    assert max(part.num_cells for part in parts) <= 999
    for name in ("cell_ids", "fov_ids", "labels", "logits", "probabilities"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))


def test_an_error_in_the_batches_leaves_the_old_file(path):
    def batches():
        yield make_batch(0, 2)
        raise RuntimeError("stopped")

    before = predictions.read_predictions(path)
    with pytest.raises(RuntimeError, match="stopped"):
        predictions.write_predictions(path, INFO, batches())
    assert predictions.read_predictions(path).num_cells == before.num_cells


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"logits": np.full((2, 3), np.nan)}, "a_fov_0_0' has logit nan in column 0"),
        ({"logits": np.array([[0, 0, 0], [0, np.inf, 0]])}, "a_fov_0_1' has logit inf in column 1"),
        ({"probabilities": np.array([[0, 1, 0.5], [0, 1, 1.01]])}, "a_fov_0_1' has probability 1.01 in column 2"),
        ({"probabilities": np.zeros((2, 4))}, r"probabilities \(2, 4\) of 2 cells, 3 classes"),
        ({"labels": np.zeros((1, 3))}, r"labels \(1, 3\) of 2 cells"),
    ],
)
def test_wrong_values_are_not_written(tmp_path, changes, reason):
    path = tmp_path / "p.parquet"
    with pytest.raises(DatasetError, match=reason):
        predictions.write_predictions(str(path), INFO, [make_batch(0, 2, **changes)])
    assert not path.exists()


def test_no_cells_are_an_error(tmp_path):
    with pytest.raises(DatasetError, match="no cells to write"):
        predictions.write_predictions(str(tmp_path / "p.parquet"), INFO, [])


def triples(values):
    return pa.array(values, pa.list_(pa.float32(), 3))


IDS = [f"a_fov_{i // 5}_{i}" for i in range(7)]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"logits": None}, "no column 'logits'"),
        ({"logits": pa.array([[0.0, 0.0]] * 7, pa.list_(pa.float32(), 2))}, "not those of 3 classes"),
        ({"labels": pa.array(["16"] * 7)}, "not those of 3 classes"),
        ({"cell_id": pa.array([*IDS[:6], IDS[2]])}, "cell 'a_fov_0_2' stands twice"),
        ({"cell_id": pa.array([*IDS[:6], None])}, "row 6 has no cell_id"),
        ({"labels": pa.array([[16]] * 6 + [[0, 3]], pa.list_(pa.int64()))}, "'a_fov_1_6' has label 3, .* 16, 0, 14"),
        ({"probabilities": triples([[0, 0, 1]] * 6 + [[0, float("nan"), 0]])}, "'a_fov_1_6' has probability nan"),
        ({"probabilities": triples([[0, 0, 1]] * 6 + [[0, -0.1, 0]])}, "'a_fov_1_6' has probability -0.1"),
        ({"logits": triples([[0, 0, float("nan")]] * 7)}, "'a_fov_0_0' has logit nan in column 2"),
    ],
)
def test_a_file_with_wrong_columns_is_an_error(path, columns, reason):
    rewrite(path, **columns)
    with pytest.raises(DatasetError, match=f"predictions.parquet.*{reason}"):
        predictions.read_predictions(path)


def test_other_spellings_of_the_types_are_read(path):
    wanted = predictions.read_predictions(path)
    rewrite(
        path,
        cell_id=pa.array(IDS, pa.large_string()),
        logits=pa.array(wanted.logits.astype(float).tolist(), pa.list_(pa.float64())),
    )
    found = predictions.read_predictions(path)
    np.testing.assert_array_equal(found.logits, wanted.logits)
    assert found.cell_ids.tolist() == IDS


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (None, "without hpa_predictions"),
        ("{", "metadata that this program cannot read"),
        ('{"schema_version": 2}', "schema version 2, this program reads 1"),
        ('{"schema_version": 1, "classes": [], "runs": []}', "metadata that this program cannot read"),
        ('{"schema_version": 1, "classes": [{"label": 3}]}', "metadata that this program cannot read"),
    ],
)
def test_metadata_of_another_kind_are_an_error(path, metadata, reason):
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(None if metadata is None else {"hpa_predictions": metadata}), path)
    with pytest.raises(DatasetError, match=f"predictions.parquet.*{reason}"):
        predictions.read_predictions(path)


def test_what_is_no_parquet_file_is_an_error(path, tmp_path):
    other = tmp_path / "other.parquet"
    with pytest.raises(DatasetError, match=r"other\.parquet: no such file.*trainer\.predict"):
        predictions.read_predictions(str(other))
    other.write_bytes(b"not Parquet")
    with pytest.raises(DatasetError, match=r"other\.parquet: not a predictions file"):
        predictions.read_predictions(str(other))


def test_a_damaged_file_is_an_error(path):
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(b"\xff" * 200)
    with pytest.raises(DatasetError, match=r"predictions\.parquet"):
        predictions.read_predictions(path)
    with pytest.raises(DatasetError, match=r"predictions\.parquet"):
        list(predictions.iter_predictions(path, batch_rows=3))
