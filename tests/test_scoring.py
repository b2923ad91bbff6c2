"""Promises of the metric: the reference's values, and what each rule of it does."""

import json
import math

import numpy as np
import pytest

import kaggle_data
from hpa_proto import masks
from hpa_proto.errors import ConfigError
from trainer import scoring, submission
from trainer.predictions import ClassInfo, Predictions, PredictionsInfo
from trainer.scoring import READINGS, Scorer
from trainer.submission import Detection, FovSize, TruthObject

SIZE = FovSize(20, 40)


def block(left, right, *, top=0, bottom=20):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return masks.encode_mask(mask)


def score(detections, objects, *, reading=READINGS[0], **arguments):
    scorer = Scorer(**arguments)
    scorer.add_fov(SIZE, detections, objects)
    return scorer.result(reading=reading)


def test_the_vectors_are_met():
    if not kaggle_data.VECTORS.is_dir():
        pytest.skip(f"shared data not there: {kaggle_data.VECTORS}")
    expected = json.loads((kaggle_data.VECTORS / "expected.json").read_text())
    truth = submission.read_truth(str(kaggle_data.VECTORS / "ground_truth.csv"))
    rows = list(submission.read_submission(str(kaggle_data.VECTORS / "submission.csv")))
    num_checked = 0
    for threshold in (0.6, 0.5):
        scorer = Scorer(iou_threshold=threshold)
        for row in rows:
            scorer.add_fov(row.size, row.detections, truth[row.fov_id].objects)
        for reading in READINGS:
            values = expected["results"].get(f"mask_iou{threshold}_{reading}")
            if values is None:
                continue
            result = scorer.result(reading=reading)
            assert result.mean == pytest.approx(values["mAP"], abs=1e-9)
            for label, value in values["AP_per_class"].items():
                found = result.per_class[int(label)]
                assert found.num_objects == expected["gt_per_class"].get(label, 0)
                if value is None:
                    assert math.isnan(found.average_precision)
                else:
                    assert found.average_precision == pytest.approx(value, abs=1e-9)
            num_checked += 1
    assert num_checked == 3


def test_a_perfect_submission_scores_one():
    objects = [TruthObject(0, block(0, 10)), TruthObject(5, block(10, 20)), TruthObject(18, block(20, 30))]
    result = score([Detection(each.label, 0.9, each.counts) for each in objects], objects)
    assert result.mean == 1
    assert {label for label, entry in result.per_class.items() if entry.num_objects} == {0, 5, 18}


@pytest.mark.parametrize(("threshold", "hit"), [(0.5, True), (0.75, True), (0.76, False)])
def test_the_threshold_itself_is_a_hit(threshold, hit):
    result = score([Detection(0, 0.9, block(0, 15))], [TruthObject(0, block(0, 20))], iou_threshold=threshold)
    assert result.mean == hit


def test_a_second_detection_of_a_taken_object_is_false():
    objects = [TruthObject(0, block(0, 10)), TruthObject(0, block(20, 30))]
    detections = [
        Detection(0, 0.9, block(0, 10)),
        Detection(0, 0.8, block(0, 9)),
        Detection(0, 0.7, block(20, 30)),
    ]
    # Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1; the envelope is 1 and 2/3.
    assert score(detections, objects).mean == pytest.approx((1 + 2 / 3) / 2)


def test_a_detection_has_no_second_choice():
    # It overlaps the taken left object most, and the free right one enough.
    objects = [TruthObject(0, block(0, 10)), TruthObject(0, block(0, 10, bottom=19))]
    detections = [Detection(0, 0.9, block(0, 10)), Detection(0, 0.8, block(0, 10))]
    assert score(detections, objects).mean == pytest.approx(0.5)


def test_the_more_confident_takes_the_object():
    objects = [TruthObject(0, block(0, 10))]
    better_later = [Detection(0, 0.2, block(0, 9)), Detection(0, 0.9, block(0, 10))]
    assert score(better_later, objects).mean == 1


def test_other_classes_objects_do_not_matter():
    objects = [TruthObject(1, block(0, 10)), TruthObject(0, block(20, 30))]
    result = score([Detection(0, 0.9, block(0, 10)), Detection(0, 0.8, block(20, 30))], objects)
    assert result.per_class[0].average_precision == pytest.approx(0.5)
    assert result.per_class[1].average_precision == 0


def test_empty_masks_are_left_out():
    empty = masks.encode_mask(np.zeros(SIZE, bool))
    objects = [TruthObject(0, block(0, 10)), TruthObject(0, empty)]
    result = score([Detection(0, 1.0, empty), Detection(0, 0.5, block(0, 10))], objects)
    assert result.per_class[0] == (1.0, 1, 1)


def test_a_class_that_the_truth_lacks_in_a_fov_counts_in_one_reading_only():
    scorer = Scorer()
    scorer.add_fov(SIZE, [Detection(0, 0.9, block(0, 10))], [TruthObject(5, block(0, 10))])
    scorer.add_fov(SIZE, [Detection(0, 0.8, block(0, 10))], [TruthObject(0, block(0, 10))])
    assert scorer.result(reading=READINGS[0]).per_class[0] == (0.5, 1, 2)
    assert scorer.result(reading=READINGS[1]).per_class[0] == (1.0, 1, 1)


def test_classes_without_objects_are_left_out_of_the_mean():
    result = score([Detection(3, 0.9, block(0, 10))], [TruthObject(5, block(0, 10))])
    assert result.mean == 0
    assert math.isnan(result.per_class[3].average_precision)
    assert math.isnan(score([], []).mean)


@pytest.mark.parametrize("threshold", [0, -1, 1.1, math.nan])
def test_a_threshold_out_of_range_is_an_error(threshold):
    with pytest.raises(ConfigError, match="IoU threshold"):
        Scorer(iou_threshold=threshold)


def random_predictions(*, num_cells, seed):
    """Cells of 20 FOVs with weak labels, and masks that do not overlap."""
    rng = np.random.default_rng(seed)
    fov = rng.integers(0, 20, num_cells)
    labels = (rng.random((num_cells, 4)) < 0.3).astype(np.float32)
    probabilities = rng.random((num_cells, 4)).astype(np.float32)
    classes = tuple(ClassInfo(label, f"class {label}") for label in (16, 0, 18, 3))
    return Predictions(
        info=PredictionsInfo(classes, "all", True, "test", "0" * 64, (), False),
        cell_ids=np.array([f"fov-{number}_{index}" for index, number in enumerate(fov)], dtype=object),
        fov_ids=np.array([f"fov-{number}" for number in fov], dtype=object),
        labels=labels,
        logits=probabilities,
        probabilities=probabilities,
        embeddings=None,
    )


@pytest.mark.parametrize("reading", READINGS)
def test_scoring_cells_is_the_metric_without_reading_a_mask(reading):
    predicted = random_predictions(num_cells=120, seed=1)
    scorer = Scorer()
    for fov_id in dict.fromkeys(predicted.fov_ids):
        rows = np.flatnonzero(predicted.fov_ids == fov_id)
        counts = {row: block(2 * number, 2 * number + 2) for number, row in enumerate(rows)}
        columns = list(enumerate(predicted.info.classes))
        scorer.add_fov(
            SIZE,
            [
                Detection(info.label, float(predicted.probabilities[row, column]), counts[row])
                for row in rows
                for column, info in columns
            ],
            [
                TruthObject(info.label, counts[row])
                for row in rows
                for column, info in columns
                if predicted.labels[row, column]
            ],
        )
    expected = scorer.result(reading=reading)
    found = scoring.score_cells(predicted, reading=reading)
    assert found.mean == pytest.approx(expected.mean, abs=1e-12)
    for label, entry in expected.per_class.items():
        assert found.per_class[label] == pytest.approx(entry, abs=1e-12, nan_ok=True)
