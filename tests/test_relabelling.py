"""Promises of trainer.relabelling: who keeps a label, who is Negative, who is left with none."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import random_predictions
from hpa_proto.errors import ConfigError, DatasetError
from trainer import relabelling
from trainer.predictions import Predictions
from trainer.relabelling import RelabelRules

NUCLEOPLASM, NUCLEOLI, NEGATIVE = 0, 2, 18


def make_predictions(cells, classes=(NUCLEOPLASM, NUCLEOLI, NEGATIVE)):
    """Makes predictions of cells (FOV, labels of the FOV, probability of each class)."""
    fov_ids, label_sets, probabilities = zip(*cells, strict=True)
    return Predictions(
        info=random_predictions.make_info(classes, multi_label=True),
        cell_ids=np.array([f"{fov}_{index}" for index, fov in enumerate(fov_ids)], dtype=object),
        fov_ids=np.array(fov_ids, dtype=object),
        labels=np.array([[label in own for label in classes] for own in label_sets], dtype=np.float32),
        logits=np.zeros((len(cells), len(classes)), np.float32),
        probabilities=np.array(probabilities, dtype=np.float32),
        embeddings=None,
    )


def sets_of(predictions, **rules):
    """Relabels; returns the label set of each cell."""
    relabelled = relabelling.relabel(predictions, RelabelRules(**rules))
    numbers = np.array([info.label for info in predictions.info.classes])
    return [tuple(numbers[row].tolist()) for row in relabelled.labels]


# Cells of other FOVs have a probability of Nucleoplasm up to 0.2, cells of Nucleoplasm's of 0.1 and of 0.9.
WEAK = [
    ("a", {NUCLEOPLASM}, (0.9, 0.1, 0.1)),
    ("a", {NUCLEOPLASM}, (0.9, 0.1, 0.1)),
    ("a", {NUCLEOPLASM}, (0.1, 0.1, 0.8)),
    ("a", {NUCLEOPLASM}, (0.1, 0.1, 0.05)),
    ("b", {NUCLEOLI}, (0.2, 0.9, 0.1)),
    ("b", {NUCLEOLI}, (0.2, 0.8, 0.1)),
    ("n", {NEGATIVE}, (0.1, 0.1, 0.7)),
    ("n", {NEGATIVE}, (0.1, 0.1, 0.5)),
]


def test_cell_keeps_a_label_only_where_the_model_agrees():
    kept = sets_of(make_predictions(WEAK))
    assert kept[:6] == [(0,), (0,), (NEGATIVE,), (), (2,), (2,)]


def test_cells_of_a_negative_fov_stay_negative_whatever_the_model_says():
    cells = [*WEAK, ("n", {NEGATIVE}, (0.9, 0.9, 0.0))]
    assert sets_of(make_predictions(cells))[-1] == (NEGATIVE,)


def test_leftover_cells_are_negative_only_with_confidence_and_only_if_wanted():
    assert sets_of(make_predictions(WEAK))[2:4] == [(NEGATIVE,), ()]
    assert sets_of(make_predictions(WEAK), leftover="drop")[2:4] == [(), ()]


def test_leftover_cells_have_no_label_where_negative_is_no_class():
    cells = [(fov, own, scores[:2]) for fov, own, scores in WEAK if own != {NEGATIVE}]
    assert sets_of(make_predictions(cells, (NUCLEOPLASM, NUCLEOLI)))[2:4] == [(), ()]


def test_cell_of_a_fov_that_is_negative_and_more_is_negative_or_more_never_both():
    cells = [
        *WEAK,
        ("m", {NUCLEOPLASM, NEGATIVE}, (0.9, 0.1, 0.9)),
        ("m", {NUCLEOPLASM, NEGATIVE}, (0.1, 0.1, 0.9)),
        ("m", {NUCLEOPLASM, NEGATIVE}, (0.1, 0.1, 0.0)),
    ]
    assert sets_of(make_predictions(cells))[-3:] == [(0,), (NEGATIVE,), ()]


@pytest.mark.parametrize(("num_cells", "kept"), [(0, [(), ()]), (1, [(), (0,)]), (2, [(0,), (0,)])])
def test_fov_keeps_its_label_on_its_likeliest_cells(num_cells, kept):
    cells = [*WEAK, ("c", {NUCLEOPLASM}, (0.01, 0, 0)), ("c", {NUCLEOPLASM}, (0.02, 0, 0))]
    relabelled = relabelling.relabel(make_predictions(cells), RelabelRules(min_cells_per_fov_label=num_cells))
    assert [(0,) if row[0] else () for row in relabelled.labels[-2:]] == kept
    assert relabelled.per_class["num_kept_below_threshold"].tolist() == [num_cells, 0, 0]


def test_threshold_is_the_null_quantile_or_the_mean_confidence_whichever_is_lower():
    cells = [("a", {0}, (0.9, 0)), ("a", {0}, (0.7, 0)), *(("b", {2}, (p, 1)) for p in np.linspace(0, 1, 101))]
    predictions = make_predictions(cells, (0, 2))
    table = relabelling.relabel(predictions, RelabelRules(null_quantile=0.5)).per_class
    assert table.loc[0, ["threshold", "null_quantile", "self_confidence"]].tolist() == pytest.approx([0.5, 0.5, 0.8])
    table = relabelling.relabel(predictions, RelabelRules(null_quantile=0.95)).per_class
    assert table.loc[0, ["threshold", "null_quantile", "self_confidence"]].tolist() == pytest.approx([0.8, 0.95, 0.8])


def test_class_that_every_fov_has_is_judged_by_its_own_mean():
    cells = [("a", {0}, (0.9,)), ("b", {0}, (0.5,)), ("b", {0}, (0.8,))]
    assert sets_of(make_predictions(cells, (0,))) == [(0,), (), (0,)]


def test_counts_add_up():
    table = relabelling.relabel(make_predictions(WEAK), RelabelRules()).per_class.set_index("label")
    assert table["num_given"].tolist() == [4, 2, 2]
    assert table["num_kept"].tolist() == [2, 2, 2]
    assert table["num_removed"].tolist() == [2, 0, 0]
    assert table["num_added"].tolist() == [0, 0, 1]
    assert table["name"].tolist() == ["Nucleoplasm", "Nucleoli", "Negative"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.booleans(), st.sampled_from([0.5, 0.99]), st.integers(0, 3))
def test_no_label_comes_from_nowhere_and_none_of_a_fov_is_lost(seed, multi_label, null_quantile, num_cells):
    predictions = random_predictions.make_predictions(num_cells=90, multi_label=multi_label, seed=seed)
    rules = RelabelRules(null_quantile=null_quantile, min_cells_per_fov_label=num_cells)
    relabelled = relabelling.relabel(predictions, rules)
    given_labels = predictions.labels > 0
    assert not (relabelled.labels & ~given_labels).any()
    table = relabelled.per_class
    assert (table["num_given"] == table["num_kept"] + table["num_removed"]).all()
    above = predictions.probabilities >= table["threshold"].to_numpy()
    assert relabelled.labels[above & given_labels].all()
    for fov in np.unique(predictions.fov_ids.astype(str)):
        rows = predictions.fov_ids == fov
        assert (relabelled.labels[rows].sum(axis=0) >= np.minimum(num_cells, given_labels[rows].sum(axis=0))).all()

    # The order of the cells plays no part.
    order = np.random.default_rng(seed).permutation(90)
    names = ("cell_ids", "fov_ids", "labels", "logits", "probabilities")
    mixed = dataclasses.replace(predictions, **{name: getattr(predictions, name)[order] for name in names})
    assert (relabelling.relabel(mixed, rules).labels == relabelled.labels[order]).all()


def test_cell_without_a_label_is_an_error():
    with pytest.raises(DatasetError, match="cell 'c_8' has no label of its FOV"):
        relabelling.relabel(make_predictions([*WEAK, ("c", set(), (0, 0, 0))]), RelabelRules())


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"null_quantile": 1.0}, "--null_quantile=1.0"),
        ({"null_quantile": float("nan")}, "--null_quantile=nan"),
        ({"min_cells_per_fov_label": -1}, "--min_cells_per_fov_label=-1"),
        ({"leftover": "keep"}, "--leftover=keep: choose one of negative, drop"),
    ],
)
def test_rules_that_cannot_work_are_errors(rules, message):
    with pytest.raises(ConfigError, match=message):
        RelabelRules(**rules)
