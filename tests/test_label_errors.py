"""Promises of trainer.label_errors: wrong labels come first, per cell, FOV and class, for one label a cell and for several."""

import dataclasses

import numpy as np
import pytest

import random_predictions
from hpa_proto.errors import DatasetError
from trainer.label_errors import find_label_errors

NUM_CLASSES = 5
CELLS_PER_FOV = 8


def make_noisy(*, multi_label=False, share=0.1, skill=3.0, seed=0):
    """Makes predictions that are mostly right about true labels, and gives some FOVs wrong ones; returns those FOVs, too."""
    found = random_predictions.make_predictions(
        num_cells=150 * CELLS_PER_FOV,
        num_classes=NUM_CLASSES,
        cells_per_fov=CELLS_PER_FOV,
        multi_label=multi_label,
        skill=skill,
        seed=seed,
    )
    fovs = np.unique(found.fov_ids.astype(str))
    wrong = set(np.random.default_rng(seed).choice(fovs, round(share * len(fovs)), replace=False).tolist())
    is_wrong = np.isin(found.fov_ids.astype(str), list(wrong))
    labels = found.labels.copy()
    # The classes' columns moved by one: another class, or other classes.
    labels[is_wrong] = np.roll(labels[is_wrong], 1, axis=1)
    return dataclasses.replace(found, labels=labels), wrong


def precision_of_first_half(errors, wrong):
    num_wrong = errors.cells["fov_id"].isin(wrong).sum()
    return errors.cells["fov_id"].head(num_wrong // 2).isin(wrong).mean()


@pytest.mark.parametrize("multi_label", [False, True])
def test_cells_with_wrong_labels_come_first(multi_label):
    noisy, wrong = make_noisy(multi_label=multi_label)
    errors = find_label_errors(noisy)
    assert precision_of_first_half(errors, wrong) >= 0.95
    assert errors.cells["rank"].tolist() == list(range(1, noisy.num_cells + 1))
    assert errors.cells["label_quality"].is_monotonic_increasing
    assert set(errors.cells["cell_id"]) == set(noisy.cell_ids)


def test_the_other_cells_of_a_fov_help():
    noisy, wrong = make_noisy(skill=1.5)
    alone = precision_of_first_half(find_label_errors(noisy, fov_weight=0), wrong)
    together = precision_of_first_half(find_label_errors(noisy), wrong)
    assert alone < 0.8
    assert together > alone + 0.1


def test_an_odd_cell_of_a_right_fov_is_less_doubtful_than_a_wrong_fov():
    noisy, wrong = make_noisy()
    odd = int(np.flatnonzero(~np.isin(noisy.fov_ids.astype(str), list(wrong)))[0])
    own, other = noisy.labels[odd].argmax(), (noisy.labels[odd].argmax() + 1) % NUM_CLASSES
    noisy.probabilities[odd] = 0
    noisy.probabilities[odd, other] = 1
    errors = find_label_errors(noisy)
    row = errors.cells.set_index("cell_id").loc[noisy.cell_ids[odd]]
    assert row["given_labels"] == [own]
    assert row["predicted_labels"] == [other]
    of_wrong = errors.cells.loc[errors.cells["fov_id"].isin(wrong), "label_quality"]
    assert row["label_quality"] > of_wrong.median()
    assert row["label_quality"] < row["fov_quality"]


def test_quality_of_a_single_label_is_its_pooled_probability():
    noisy, _ = make_noisy()
    errors = find_label_errors(noisy, fov_weight=0.25)
    row = errors.cells.iloc[17]
    cell = noisy.cell_ids.tolist().index(row["cell_id"])
    of_fov = noisy.fov_ids == row["fov_id"]
    label = noisy.labels[cell].argmax()
    wanted = 0.75 * noisy.probabilities[cell, label] + 0.25 * noisy.probabilities[of_fov, label].mean()
    assert row["label_quality"] == pytest.approx(wanted, abs=1e-6)
    assert row[f"quality_{label}"] == pytest.approx(wanted, abs=1e-6)
    other = (label + 1) % NUM_CLASSES
    pooled = 0.75 * noisy.probabilities[cell, other] + 0.25 * noisy.probabilities[of_fov, other].mean()
    assert row[f"quality_{other}"] == pytest.approx(1 - pooled, abs=1e-6)
    assert row[f"probability_{other}"] == noisy.probabilities[cell, other]
    assert row["confidence"] == noisy.probabilities[cell].max()


def test_fovs_are_ranked_and_say_what_they_look_like():
    noisy, wrong = make_noisy()
    errors = find_label_errors(noisy)
    assert set(errors.fovs["fov_id"].head(len(wrong))) == wrong
    assert (errors.fovs["num_cells"] == CELLS_PER_FOV).all()
    assert errors.fovs["issue_share"].head(len(wrong)).mean() > 0.8
    assert errors.fovs["issue_share"][len(wrong) :].mean() < 0.1
    for row in errors.fovs.head(len(wrong)).itertuples():
        assert row.predicted_labels == [(row.given_labels[0] - 1) % NUM_CLASSES]
        cells = errors.cells[errors.cells["fov_id"] == row.fov_id]
        assert row.mean_quality == pytest.approx(cells["label_quality"].mean())
        assert row.num_issues == cells["is_issue"].sum()


def test_classes_count_what_is_wrong_and_what_it_looks_like():
    noisy, wrong = make_noisy()
    errors = find_label_errors(noisy)
    assert errors.per_class["label"].tolist() == list(range(NUM_CLASSES))
    assert errors.per_class["num_cells"].tolist() == noisy.labels.sum(axis=0).tolist()
    assert errors.per_class["num_issues"].sum() == errors.num_issues == errors.cells["is_issue"].sum()
    for k, row in enumerate(errors.per_class.itertuples()):
        of_class = noisy.fov_ids[(noisy.labels[:, k] > 0) & np.isin(noisy.fov_ids.astype(str), list(wrong))]
        if len(of_class):
            assert row.most_often_like == noisy.class_names[(k - 1) % NUM_CLASSES]
            assert row.num_issues >= 0.8 * len(of_class)


def test_several_labels_are_judged_class_by_class():
    found = random_predictions.make_predictions(
        num_cells=800, num_classes=NUM_CLASSES, cells_per_fov=8, multi_label=True, skill=6.0
    )
    # As sure of what is there as of what is not.
    probabilities = random_predictions.to_probabilities(found.logits + 3, multi_label=True)
    labels = found.labels.copy()
    lacks_0, has_3 = labels[:, 0] == 0, labels[:, 3] == 1
    added = np.isin(found.fov_ids, np.unique(found.fov_ids[lacks_0].astype(str))[:4])
    taken = np.isin(found.fov_ids, np.unique(found.fov_ids[has_3].astype(str))[:4]) & (labels.sum(axis=1) > 1) & ~added
    labels[added, 0], labels[taken, 3] = 1, 0
    errors = find_label_errors(dataclasses.replace(found, labels=labels, probabilities=probabilities))
    cells = errors.cells.set_index("cell_id").loc[found.cell_ids]
    for k, changed in ((0, added), (3, taken)):
        quality, is_issue = cells[f"quality_{k}"].to_numpy(), cells[f"is_issue_{k}"].to_numpy()
        assert quality[changed].max() < np.quantile(quality[~changed], 0.05)
        assert is_issue[changed].mean() >= 0.5
        assert not is_issue[~changed].any()
    assert cells["is_issue_1"].to_numpy()[added | taken].mean() < 0.1
    # A label that is missing is counted with the class that the cell looks like.
    assert errors.per_class["num_suggested"][3] == (cells["is_issue_3"].to_numpy() & (labels[:, 3] == 0)).sum() > 0
    assert errors.multi_label


def test_a_class_that_every_cell_has_is_never_doubtful():
    noisy, _ = make_noisy(multi_label=True)
    labels = noisy.labels.copy()
    labels[:, 2] = 1
    errors = find_label_errors(dataclasses.replace(noisy, labels=labels))
    assert not errors.cells["is_issue_2"].any()
    assert errors.num_issues > 0


def test_a_class_without_a_cell_does_no_harm():
    noisy, _ = make_noisy()
    keeps = noisy.labels[:, 4] == 0
    part = dataclasses.replace(
        noisy,
        **{name: getattr(noisy, name)[keeps] for name in ("cell_ids", "fov_ids", "labels", "logits", "probabilities")},
    )
    row = find_label_errors(part).per_class.iloc[4]
    assert (row["num_cells"], row["num_issues"], row["most_often_like"]) == (0, 0, "")


def test_clean_labels_are_hardly_doubtful():
    clean, _ = make_noisy(share=0, skill=6.0)
    assert find_label_errors(clean).num_issues < 0.01 * clean.num_cells


def test_cells_without_labels_are_left_out():
    noisy, _ = make_noisy()
    noisy.labels[:40] = 0
    errors = find_label_errors(noisy)
    assert len(errors.cells) == noisy.num_cells - 40
    assert not set(errors.cells["cell_id"]) & set(noisy.cell_ids[:40])


def test_the_order_of_the_cells_plays_no_part():
    noisy, _ = make_noisy()
    order = np.random.default_rng(1).permutation(noisy.num_cells)
    names = ("cell_ids", "fov_ids", "labels", "logits", "probabilities")
    shuffled = dataclasses.replace(noisy, **{name: getattr(noisy, name)[order] for name in names})
    first, second = find_label_errors(noisy), find_label_errors(shuffled)
    assert first.cells["cell_id"].tolist() == second.cells["cell_id"].tolist()
    assert first.fovs["fov_id"].tolist() == second.fovs["fov_id"].tolist()


def test_labels_that_are_all_the_same_cannot_be_judged():
    noisy, _ = make_noisy()
    noisy.labels[:] = np.eye(NUM_CLASSES)[0]
    with pytest.raises(DatasetError, match="all 1200 cells are given the same labels"):
        find_label_errors(noisy)
