"""An evaluation as a whole: the old project's matrix, both kinds of labels, and what is empty or alone."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import random_predictions
from random_predictions import OLD_CONFUSION
from trainer import evaluation, evaluation_tables


def evaluate(*, multi_label, with_validation=True, **options):
    predictions = random_predictions.make_predictions(multi_label=multi_label)
    validation = random_predictions.make_predictions(multi_label=multi_label, split="validation", seed=1)
    return predictions, evaluation.evaluate(
        predictions, validation=validation if with_validation else None, num_resamples=200, **options
    )


@pytest.fixture(scope="module")
def old():
    return evaluation.evaluate(random_predictions.predictions_of_confusion(), num_resamples=200)


@pytest.fixture(scope="module")
def single():
    return evaluate(multi_label=False)


@pytest.fixture(scope="module")
def multi():
    return evaluate(multi_label=True)


def test_old_projects_matrix_comes_out_as_it_went_in(old):
    assert old.confusion.tolist() == OLD_CONFUSION.tolist()
    assert old.num_cells == 9482
    assert np.trace(old.confusion) == 6493
    assert round(100 * old.overall["accuracy"].value, 1) == 68.5
    recall = {result.name: round(100 * result.recall.value) for result in old.classes}
    assert (recall["Nucleoplasm"], recall["Nuclear speckles"], recall["Mitochondria"]) == (82, 79, 74)
    assert recall["Endoplasmic reticulum"] == 52


def test_old_projects_best_and_worst_classes_and_confusions_are_named(old):
    assert old.best_classes == ("Nucleoplasm", "Nuclear speckles", "Mitochondria")
    assert old.worst_classes == ("Nuclear bodies", "Endoplasmic reticulum", "Cytosol")
    assert old.top_confusions[0] == evaluation.Confusion("Plasma membrane", "Cytosol", 138, 138 / 999)
    reticulum = next(result for result in old.classes if result.name == "Endoplasmic reticulum")
    assert [(c.predicted_class, c.num_cells) for c in reticulum.missed_as[:2]] == [
        ("Cytosol", 90),
        ("Mitochondria", 54),
    ]
    assert [(c.true_class, c.num_cells) for c in reticulum.false_calls[:2]] == [("Cytosol", 69), ("Mitochondria", 42)]
    text = "\n".join(evaluation_tables.summarise(old))
    assert "accuracy 68.5 % (" in text
    assert "best classes by recall: Nucleoplasm 82 %, Nuclear speckles 79 %, Mitochondria 74 %" in text
    assert "worst classes by recall: Nuclear bodies 51 %, Endoplasmic reticulum 52 %" in text
    assert "top confusions: Plasma membrane as Cytosol (138 cells, 14 %)" in text


def test_single_label_figures_and_tables_agree_with_scikit_learn(single):
    predictions, found = single
    labels, probabilities = predictions.labels > 0, predictions.probabilities
    true, called = labels.argmax(axis=1), probabilities.argmax(axis=1)
    assert found.overall["accuracy"].value == pytest.approx(sklearn_metrics.accuracy_score(true, called))
    assert found.overall["mean_average_precision"].value == pytest.approx(
        sklearn_metrics.average_precision_score(labels, probabilities)
    )
    tables = sklearn_metrics.multilabel_confusion_matrix(true, called)
    for result, ((tn, fp), (fn, tp)) in zip(found.classes, tables, strict=True):
        assert (result.true_negatives, result.false_positives) == (tn, fp)
        assert (result.false_negatives, result.true_positives) == (fn, tp)
        assert result.support == tp + fn
        assert result.num_predicted == tp + fp
        assert np.isnan(result.threshold)
    assert (found.predicted == (called[:, np.newaxis] == np.arange(5))).all()
    assert found.judged.all()
    assert found.mistakes is None


def test_intervals_hold_the_figures(single, multi):
    for _, found in (single, multi):
        for name, figure in found.overall.items():
            if name == "mean_average_precision" or name.startswith("kaggle_map"):
                assert np.isnan(figure.low)
            else:
                assert figure.low < figure.value < figure.high, name
        for result in found.classes:
            assert result.recall.low < result.recall.value < result.recall.high


def test_multi_label_has_thresholds_2x2_tables_and_mistakes(multi):
    predictions, found = multi
    labels = predictions.labels > 0
    chosen = np.array([result.threshold for result in found.classes])
    predicted = predictions.probabilities >= chosen
    assert found.thresholds_from == "validation"
    assert len(set(chosen)) == 5
    assert (found.predicted == predicted).all()
    tables = sklearn_metrics.multilabel_confusion_matrix(labels, predicted)
    for k, (result, ((tn, fp), (fn, tp))) in enumerate(zip(found.classes, tables, strict=True)):
        assert (result.true_negatives, result.false_positives) == (tn, fp)
        assert (result.false_negatives, result.true_positives) == (fn, tp)
        assert found.mistakes[k, k] == fp + fn
        assert result.f1.value == pytest.approx(sklearn_metrics.f1_score(labels[:, k], predicted[:, k]))
    assert found.overall["micro_f1"].value == pytest.approx(
        sklearn_metrics.f1_score(labels, predicted, average="micro")
    )
    assert np.diag(found.confusion).tolist() == [0] * 5
    assert found.ranked_by == "f1"
    assert found.coverage is None


def test_thresholds_of_trust_are_chosen_on_validation_and_judged_on_the_rest(single, multi):
    for multi_label, (_, found) in ((False, single), (True, multi)):
        alone = evaluate(multi_label=multi_label, with_validation=False)[1]
        assert (found.thresholds_from, alone.thresholds_from) == ("validation", "default")
        for own, other in zip(found.classes, alone.classes, strict=True):
            assert own.trust.threshold != other.trust.threshold
            if np.isfinite(other.trust.threshold):
                assert other.trust.precision >= 0.9
                assert other.trust.coverage == other.trust.num_found / other.support


def test_temperature_is_fitted_on_validation_only(single):
    assert single[1].calibration.temperature < 0.9
    after, before = single[1].calibration.after, single[1].calibration.before
    assert after.log_loss < before.log_loss
    alone = evaluate(multi_label=False, with_validation=False)[1]
    assert np.isnan(alone.calibration.temperature)
    assert alone.calibration.after is None


def test_same_seed_gives_the_same_json(single, multi):
    for multi_label, (_, found) in ((False, single), (True, multi)):
        again, other = (evaluate(multi_label=multi_label, seed=seed)[1].to_json() for seed in (0, 1))
        assert json.dumps(again, allow_nan=False) == json.dumps(found.to_json(), allow_nan=False)
        assert other["overall"]["accuracy"]["low"] != again["overall"]["accuracy"]["low"]
        assert other["overall"]["accuracy"]["value"] == again["overall"]["accuracy"]["value"]


def test_json_has_null_for_what_is_not_defined_and_no_row_per_cell(single):
    found = single[1].to_json()
    assert found["overall"]["mean_average_precision"]["low"] is None
    assert found["classes"][0]["threshold"] is None
    assert not {"predicted", "judged"} & found.keys()
    assert len(json.dumps(found)) < 100_000


@pytest.mark.parametrize("multi_label", [False, True])
def test_class_without_cells_is_reported_and_left_out_of_means(multi_label):
    own = random_predictions.make_predictions(multi_label=multi_label, num_classes=4)
    labels = own.labels.copy()
    labels[:, 2] = 0
    own = dataclasses.replace(own, labels=labels)
    found = evaluation.evaluate(own, num_resamples=50)
    num_unlabelled = int((labels.sum(axis=1) == 0).sum())
    assert (found.num_unlabelled, found.num_cells) == (num_unlabelled, 600 - num_unlabelled)
    assert found.judged.sum() == found.num_cells
    assert not found.predicted[~found.judged].any()
    empty = found.classes[2]
    assert empty.support == 0
    assert np.isnan([empty.recall.value, empty.average_precision.value, empty.trust.coverage]).all()
    occurring = [result.f1.value for result in found.classes if result.support]
    assert found.overall["macro_f1"].value == pytest.approx(np.mean(occurring))
    assert empty.name not in found.best_classes + found.worst_classes
    json.dumps(found.to_json(), allow_nan=False)
    evaluation_tables.make_tables(found)


@pytest.mark.parametrize("multi_label", [False, True])
def test_one_class_and_one_fov_only(multi_label):
    own = random_predictions.make_predictions(multi_label=multi_label, num_classes=1, num_cells=5)
    found = evaluation.evaluate(own, num_resamples=50)
    assert found.num_fovs == 1
    assert np.isnan(found.overall["accuracy"].low)
    assert found.best_classes == found.worst_classes == ()
    assert found.overall["mean_average_precision"].value == 1
    assert found.overall["kaggle_map"].value == found.overall["kaggle_map_only_gt_classes"].value == 1
    assert evaluation_tables.summarise(found)[0] == "test: 5 cells of 1 FOV"
    assert "interval" not in evaluation_tables.summarise(found)[1]
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("multi_label", [False, True])
def test_all_cells_equally_likely_for_every_class(multi_label):
    own = random_predictions.make_predictions(multi_label=multi_label)
    level = np.full_like(own.probabilities, 0.5 if multi_label else 0.2)
    found = evaluation.evaluate(dataclasses.replace(own, logits=level * 0, probabilities=level), num_resamples=50)
    assert found.predicted.sum() == (3000 if multi_label else 600)
    assert all(len(result.coverage.thresholds) <= 1 for result in found.classes)
    shares = own.labels.mean(axis=0)
    np.testing.assert_allclose([result.average_precision.value for result in found.classes], shares, rtol=1e-6)


def test_tables_say_what_the_evaluation_says(old, multi):
    tables = evaluation_tables.make_tables(old)
    assert tables["confusion.csv"].iloc[0].tolist() == ["Centrosome", *OLD_CONFUSION[0]]
    assert tables["confusion_percent.csv"].set_index("true class").loc["Nucleoplasm", "Nucleoplasm"] == 81.94
    assert set(tables) == {"confusion.csv", "confusion_percent.csv", "per_class.csv", "confusions.csv", "trust.csv"}
    per_class = tables["per_class.csv"].set_index("class")
    assert per_class.loc["Nucleoplasm", "support"] == 1672
    assert per_class.loc["Nucleoplasm", "recall"] == pytest.approx(1370 / 1672)
    assert "threshold" not in per_class
    confusions = tables["confusions.csv"]
    assert confusions.groupby("true_class").size().max() == 5
    assert confusions.iloc[0].tolist() == ["Centrosome", "Nucleoplasm", 50, 50 / 570]
    several = evaluation_tables.make_tables(multi[1])
    assert several["mistakes.csv"].iloc[:, 1:].to_numpy().tolist() == multi[1].mistakes.tolist()
    assert several["per_class.csv"]["threshold"].tolist() == [result.threshold for result in multi[1].classes]
    assert several["trust.csv"]["coverage"].tolist() == [result.trust.coverage for result in multi[1].classes]


def test_history_and_info_are_kept():
    found = evaluate(multi_label=False, history=[{"epoch": 1, "loss": 0.5}])[1].to_json()
    assert found["history"] == [{"epoch": 1, "loss": 0.5}]
    assert found["info"]["runs"][0]["name"] == "first"
    assert found["info"]["validation_split"] == "validation"
