"""The command `trainer.submit`: what it writes of predictions, masks and a sample submission."""

import dataclasses
import shutil

import cv2
import numpy as np
import pytest

import kaggle_data
import small_dataset
from hpa_proto import labels, masks, schema
from hpa_proto.errors import ConfigError, DatasetError
from trainer import cell_masks, predictions, shards, submission, submit
from trainer.submit import SubmitConfig

CLASSES = [(16, "Cytosol"), (0, "Nucleoplasm"), (18, "Negative")]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset.make(tmp_path_factory.mktemp("data"), num_fovs=4, num_cells=3, with_labels=False)


@pytest.fixture
def config(dataset, tmp_path):
    path = tmp_path / "predictions.parquet"
    kaggle_data.predict_at_random(path, dataset.data_dir, split="predict", classes=CLASSES)
    return SubmitConfig(predictions=str(path), data_dir=str(dataset.data_dir), out=str(tmp_path / "submission.csv"))


def submitted(config):
    submit.run(config)
    return list(submission.read_submission(config.out))


def write_sample(path, rows):
    lines = ["ID,ImageWidth,ImageHeight,PredictionString"]
    path.write_text("\n".join([*lines, *(f"{fov_id},{width},{height},0 1 x" for fov_id, width, height in rows)]))
    return str(path)


def test_every_cell_is_submitted_with_every_class_and_its_own_mask(config, dataset):
    predicted = predictions.read_predictions(config.predictions)
    result = submit.run(config)
    assert (result.num_rows, result.num_placeholders, result.num_detections) == (4, 0, 4 * 3 * 3)
    manifest, _ = shards.read_manifest(config.data_dir)
    cells = {cell.cell_id: cell for cell in cell_masks.read_cell_masks(config.data_dir, manifest, "predict")}
    expected = {
        (cell.fov_id, label, cell.counts): predicted.probabilities[row, column]
        for row, cell in enumerate(cells[cell_id] for cell_id in predicted.cell_ids)
        for column, (label, _) in enumerate(CLASSES)
    }
    found = {
        (row.fov_id, each.label, each.counts): each.confidence
        for row in submission.read_submission(config.out)
        for each in row.detections
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_masks_lie_where_the_segmentation_had_them(config, dataset):
    for row in submitted(config):
        truth = cv2.imread(str(dataset.masks_dir / f"{row.fov_id}_cell.png"), cv2.IMREAD_UNCHANGED)
        drawn = np.zeros_like(truth)
        for counts in {each.counts for each in row.detections}:
            mask = masks.decode_mask(counts, height=row.size.height, width=row.size.width)
            drawn[mask] = truth[mask].max()
        assert (drawn == truth).all()


def test_without_a_sample_the_rows_are_in_the_data_sets_order(config):
    manifest, _ = shards.read_manifest(config.data_dir)
    order = dict.fromkeys(
        cell.fov_id for cell in cell_masks.read_cell_masks(config.data_dir, manifest, manifest.splits[0].name)
    )
    assert [row.fov_id for row in submitted(config)] == list(order)


def test_equal_inputs_give_equal_files(config):
    submit.run(config)
    first = kaggle_data.sha256(config.out)
    submit.run(config)
    assert kaggle_data.sha256(config.out) == first


def test_a_sample_gives_the_rows_their_order_and_the_placeholders(config, tmp_path):
    order = ["fov-2", "empty", "fov-0", "fov-3", "fov-1"]
    sample = write_sample(tmp_path / "sample.csv", [(fov_id, 128, 96) for fov_id in order])
    rows = submitted(dataclasses.replace(config, sample_submission=sample))
    assert [row.fov_id for row in rows] == order
    assert rows[1].detections == submission.placeholder((96, 128))
    assert all(len(row.detections) == 9 for row in rows if row.fov_id != "empty")


def test_a_fov_that_the_sample_does_not_have_is_an_error(config, tmp_path):
    sample = write_sample(tmp_path / "sample.csv", [("fov-0", 128, 96)])
    with pytest.raises(DatasetError, match=r"FOV fov-\d of .* is not in .*sample.csv"):
        submit.run(dataclasses.replace(config, sample_submission=sample))


def test_a_fov_of_another_size_in_the_sample_is_an_error(config, tmp_path):
    rows = [(f"fov-{number}", 128, 96 if number else 97) for number in range(4)]
    sample = write_sample(tmp_path / "sample.csv", rows)
    with pytest.raises(DatasetError, match=r"FOV fov-0 is 128 x 96 px in .*, 128 x 97 px in"):
        submit.run(dataclasses.replace(config, sample_submission=sample))


def test_unlikely_detections_are_left_out_and_empty_rows_get_the_placeholder(config):
    predicted = predictions.read_predictions(config.predictions)
    result = submit.run(dataclasses.replace(config, min_confidence=0.9))
    assert result.num_detections == (predicted.probabilities >= 0.9).sum() > 0
    result = submit.run(dataclasses.replace(config, min_confidence=1.0))
    assert (result.num_detections, result.num_placeholders) == (0, 4)
    rows = list(submission.read_submission(config.out))
    assert all(row.detections == submission.placeholder(row.size) for row in rows)


def test_negative_as_the_product_of_what_the_others_are_not(config):
    predicted = predictions.read_predictions(config.predictions)
    found, confidences = submit.decide_confidences(dataclasses.replace(config, negative="product"), predicted)
    assert found == (16, 0, labels.NEGATIVE)
    p = predicted.probabilities.astype(float)
    assert confidences[:, :2] == pytest.approx(p[:, :2])
    assert confidences[:, 2] == pytest.approx((1 - p[:, 0]) * (1 - p[:, 1]))


def test_the_product_gives_negative_to_a_model_without_it(config, dataset):
    predicted = kaggle_data.predict_at_random(
        config.predictions, dataset.data_dir, split="predict", classes=CLASSES[:2]
    )
    assert submit.decide_confidences(config, predicted)[0] == (16, 0)
    found, confidences = submit.decide_confidences(dataclasses.replace(config, negative="product"), predicted)
    assert found == (16, 0, labels.NEGATIVE)
    assert confidences[:, 2] == pytest.approx(np.prod(1 - predicted.probabilities.astype(float), axis=1))


@pytest.mark.parametrize(("method", "pool"), [("mean", np.mean), ("max", np.max)])
def test_the_fov_is_mixed_in_by_its_weight(config, method, pool):
    predicted = predictions.read_predictions(config.predictions)
    mixed = dataclasses.replace(config, fov_weight=0.25, fov_method=method, negative="product")
    _, confidences = submit.decide_confidences(mixed, predicted)
    p = predicted.probabilities.astype(float)
    for row, fov_id in enumerate(predicted.fov_ids):
        expected = 0.75 * p[row] + 0.25 * pool(p[predicted.fov_ids == fov_id], axis=0)
        assert confidences[row, :2] == pytest.approx(expected[:2])
        assert confidences[row, 2] == pytest.approx((1 - expected[0]) * (1 - expected[1]))


def test_confidences_stay_in_range_where_a_softmax_passes_one(config):
    predicted = predictions.read_predictions(config.predictions)
    over = np.full_like(predicted.probabilities, 1 + 1e-6)
    for negative in submit.NEGATIVES:
        options = dataclasses.replace(config, fov_weight=0.3, negative=negative)
        _, confidences = submit.decide_confidences(options, dataclasses.replace(predicted, probabilities=over))
        assert confidences.min() >= 0
        assert confidences.max() <= 1


def test_predictions_of_another_data_set_are_an_error(config, dataset, tmp_path):
    other = shutil.copytree(dataset.data_dir, tmp_path / "other")
    path = other / schema.MANIFEST_NAME
    manifest = schema.parse_manifest(path.read_text(), source="test")
    manifest.label_scope = "all"
    path.write_text(schema.format_manifest(manifest))
    with pytest.raises(DatasetError, match="made from another data set"):
        submit.run(dataclasses.replace(config, data_dir=str(other)))


def test_predictions_without_a_cell_are_an_error(config, dataset):
    kaggle_data.predict_at_random(config.predictions, dataset.data_dir, split="predict", classes=CLASSES, leave_out={4})
    with pytest.raises(DatasetError, match=r"differ in 1 cells, the first is fov-\d_\d"):
        submit.run(config)


def test_a_damaged_shard_is_an_error_and_leaves_no_submission(config, dataset, tmp_path):
    copy = shutil.copytree(dataset.data_dir, tmp_path / "copy")
    shard = sorted(copy.glob("*.tfrecord"))[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match=rf"{shard.name}: corrupt record"):
        submit.run(dataclasses.replace(config, data_dir=str(copy)))
    assert not (tmp_path / "submission.csv").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_confidence": 1.5},
        {"min_confidence": float("nan")},
        {"fov_weight": -0.1},
        {"negative": "guess"},
        {"fov_method": "median"},
    ],
)
def test_a_setting_that_cannot_work_is_an_error(wrong):
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong))}="):
        SubmitConfig(predictions="p", data_dir="d", out="o", **wrong)


def test_the_command_writes_and_says_what(config, capsys):
    flags = [f"--{name}={getattr(config, name)}" for name in ("predictions", "data_dir", "out")]
    assert submit.main(["submit", *flags, "--min_confidence=0.5", "--negative=product"]) == 0
    assert "4 rows" in capsys.readouterr().out
    assert submit.main(["submit", *flags, f"--sample_submission={config.out}.no"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert submit.main(["submit", *flags[1:]]) == 1
    assert "--predictions is missing" in capsys.readouterr().err
