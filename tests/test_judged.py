"""Which cells are judged, which files fit together, and two runs side by side."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import random_predictions
import trainer_data
from hpa_proto import schema, storage
from hpa_proto.errors import DatasetError
from trainer import judged, metrics, predictions, shards, thresholds


def replace(own, **changes):
    """Changes arrays of predictions, or fields of their info."""
    fields = {field.name for field in dataclasses.fields(predictions.PredictionsInfo)}
    info = dataclasses.replace(own.info, **{key: value for key, value in changes.items() if key in fields})
    return dataclasses.replace(own, info=info, **{key: value for key, value in changes.items() if key not in fields})


def select(own, rows):
    names = ("cell_ids", "fov_ids", "labels", "logits", "probabilities")
    return replace(own, **{name: getattr(own, name)[rows] for name in names})


def test_cells_without_labels_are_left_out():
    own = random_predictions.make_predictions(num_cells=60)
    labels = own.labels.copy()
    labels[[3, 10]] = 0
    found = judged.judge(replace(own, labels=labels))
    assert sorted(set(range(60)) - set(found.rows)) == [3, 10]
    assert found.labels.shape == found.probabilities.shape == found.logits.shape == found.predicted.shape == (58, 5)
    assert len(found.fov_ids) == 58


def test_no_labels_at_all_is_an_error():
    own = random_predictions.make_predictions(num_cells=60)
    with pytest.raises(DatasetError, match="none of the 60 cells of split 'test' has a label"):
        judged.judge(replace(own, labels=np.zeros_like(own.labels)))


@pytest.mark.parametrize("name", ["probabilities", "logits"])
def test_nan_is_an_error_that_names_the_cell(name):
    own = random_predictions.make_predictions(num_cells=60)
    values = getattr(own, name).copy()
    values[7, 2] = np.nan
    with pytest.raises(DatasetError, match=f"cell 'test-00001_7' has {name} that are no numbers"):
        judged.judge(replace(own, **{name: values}))


def test_several_labels_for_a_softmax_are_an_error():
    own = random_predictions.make_predictions(num_cells=60, multi_label=True)
    with pytest.raises(DatasetError, match="several labels, but the model gives each cell one class"):
        judged.judge(replace(own, multi_label=False))


def test_multi_label_answers_take_thresholds_of_validation():
    own = random_predictions.make_predictions(multi_label=True)
    validation = judged.judge(random_predictions.make_predictions(multi_label=True, split="validation", seed=1))
    assert validation.thresholds.tolist() == [0.5] * 5
    found = judged.judge(own, validation=validation)
    expected = thresholds.choose_thresholds(validation.labels, validation.probabilities)
    assert found.thresholds.tolist() == expected.tolist()
    assert (found.predicted == (own.probabilities >= expected)).all()


@pytest.mark.parametrize("multi_label", [False, True])
def test_calls_are_the_likeliest_or_all(multi_label):
    found = judged.judge(random_predictions.make_predictions(multi_label=multi_label))
    scores, right = found.calls(2)
    expected = np.ones(600, bool) if multi_label else found.probabilities.argmax(axis=1) == 2
    np.testing.assert_array_equal(scores, found.probabilities[expected, 2])
    np.testing.assert_array_equal(right, found.labels[expected, 2])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"runs": ({"name": "second", "epoch": 4},)}, "runs"),
        ({"tta": True}, "tta"),
        ({"classes": random_predictions.make_info([4, 3, 2, 1, 0]).classes}, "classes"),
    ],
)
def test_validation_predictions_of_another_model_are_an_error(changes, what):
    validation = judged.judge(replace(random_predictions.make_predictions(split="validation"), **changes))
    with pytest.raises(DatasetError, match=f"not of the model that is judged: {what} .*predict both splits"):
        judged.judge(random_predictions.make_predictions(), validation=validation)


def test_another_model_is_told_by_names_not_by_python_values():
    changes = {"runs": ({"name": "second", "epoch": 4},)}
    validation = judged.judge(replace(random_predictions.make_predictions(split="validation"), **changes))
    wanted = r"runs second \(epoch 4\), not first \(model tiny, checkpoint best, epoch 4\); predict both"
    with pytest.raises(DatasetError, match=wanted):
        judged.judge(random_predictions.make_predictions(), validation=validation)


def test_validation_predictions_of_the_judged_fovs_are_an_error():
    own = random_predictions.make_predictions()
    with pytest.raises(DatasetError, match=r"100 FOVs are in the validation predictions .* as test-00000"):
        judged.judge(own, validation=judged.judge(own))


@pytest.fixture
def dataset(tmp_path):
    """A data set with a plan, and predictions of its test split."""
    folder = trainer_data.write_dataset(tmp_path / "dataset", classes=(0, 1, 2), examples_per_class=8)
    own = random_predictions.make_predictions(num_cells=6, num_classes=3)
    cell_ids = np.array([f"test_{index}" for index in range(6)], dtype=object)
    plan = pd.DataFrame({"cell_id": [*cell_ids, "train_0"], "split": ["test"] * 6 + ["train"]})
    storage.write_table(str(folder / schema.PLAN_NAME), plan)
    return str(folder), replace(own, cell_ids=cell_ids, manifest_sha256=shards.read_manifest(str(folder))[1])


def test_predictions_of_the_data_set_pass(dataset):
    judged.check_dataset(dataset[1], dataset[0])


def test_predictions_of_another_data_set_are_an_error(dataset):
    with pytest.raises(DatasetError, match=r"are of another data set than .*: manifest 000000000000, here"):
        judged.check_dataset(replace(dataset[1], manifest_sha256="0" * 64), dataset[0])


def test_missing_cells_are_an_error(dataset):
    with pytest.raises(DatasetError, match=r"5 predictions, but split 'test' .* has 6 cells"):
        judged.check_dataset(select(dataset[1], slice(5)), dataset[0])


def test_cell_that_is_not_in_the_plan_is_an_error(dataset):
    cell_ids = dataset[1].cell_ids.copy()
    cell_ids[4] = "train_0"
    with pytest.raises(DatasetError, match="cell 'train_0' of the predictions, with 0 others, is not in split 'test'"):
        judged.check_dataset(replace(dataset[1], cell_ids=cell_ids), dataset[0])


@pytest.mark.parametrize("multi_label", [False, True])
def test_differences_of_two_runs_do_not_depend_on_the_order_of_cells(multi_label):
    first = random_predictions.make_predictions(multi_label=multi_label)
    second = random_predictions.make_predictions(multi_label=multi_label, skill=3.0)
    expected = {}
    for own in (first, second):
        answers = judged.judge(own)
        figures = metrics.figures(answers.sums.sum(axis=0), multi_label=multi_label)
        expected = {name: value - expected.get(name, 0) for name, value in figures.items()}
    found = judged.differences(judged.judge(first), judged.judge(second), num_resamples=200, seed=3)
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value), name
        assert found[name].low <= value <= found[name].high, name
    assert found["accuracy"].low > 0
    shuffled = select(first, np.random.default_rng(0).permutation(first.num_cells))
    again = judged.differences(judged.judge(shuffled), judged.judge(second), num_resamples=200, seed=3)
    for name in found:
        assert dataclasses.astuple(again[name]) == pytest.approx(dataclasses.astuple(found[name])), name


def test_runs_on_other_cells_are_not_compared():
    own = random_predictions.make_predictions()
    with pytest.raises(DatasetError, match=r"2 cells, as .*, are in one only"):
        judged.differences(judged.judge(select(own, slice(1, 600))), judged.judge(select(own, slice(599))))


def test_runs_with_other_labels_are_not_compared():
    own = random_predictions.make_predictions()
    with pytest.raises(DatasetError, match="their cells have other labels"):
        judged.differences(judged.judge(own), judged.judge(replace(own, labels=np.roll(own.labels, 1, axis=1))))


def test_runs_of_other_classes_are_not_compared():
    own = random_predictions.make_predictions()
    other = replace(own, classes=random_predictions.make_info([4, 3, 2, 1, 0]).classes)
    with pytest.raises(DatasetError, match="their classes differ"):
        judged.differences(judged.judge(own), judged.judge(other))
