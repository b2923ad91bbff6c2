"""Promises of an evaluation's report: it says what was found, shows the right cells, is escaped, self-contained and small."""

import dataclasses
import re

import keras
import numpy as np
import pytest

import browser
import random_predictions
import tiny_backbone
import trainer_data
from hpa_proto import labels as hpa_labels
from hpa_proto import schema
from hpa_proto.errors import ConfigError, DatasetError
from trainer import cell_gallery, evaluation_report, models
from trainer.evaluation import evaluate
from trainer.predictions import ClassInfo

_NUM_RESAMPLES = 50
_CELLS_PER_CLASS = 14
_HISTORY = [
    {
        "epoch": epoch,
        "step": 10 * epoch,
        "loss": 2 / epoch,
        "accuracy": 1 - 0.8 / epoch,
        "val_loss": 2.2 / epoch,
        "val_accuracy": 1 - 0.9 / epoch,
        "val_macro_f1": 1 - 0.95 / epoch,
    }
    for epoch in range(1, 6)
]


def write(folder, predictions, *, validation=None, **options):
    found = evaluate(predictions, validation=validation, history=_HISTORY, num_resamples=_NUM_RESAMPLES)
    evaluation_report.write_report(str(folder), found, predictions, **options)
    return folder / schema.REPORT_NAME


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A data set of 19 classes, made-up predictions of its test split, and a classifier that fits it."""
    labels = range(hpa_labels.NUM_LABELS)
    label_sets = [(label,) for _ in range(_CELLS_PER_CLASS) for label in labels]
    data_dir = trainer_data.write_dataset(
        tmp_path_factory.mktemp("cells"), classes=labels, label_sets={"test": label_sets}, size_px=64
    )
    predictions = random_predictions.make_predictions(num_cells=len(label_sets), num_classes=len(labels))
    own = np.array([label for (label,) in label_sets])
    logits = predictions.logits + 2 * (np.eye(len(labels))[own] - predictions.labels)
    predictions = dataclasses.replace(
        predictions,
        cell_ids=np.array([f"test_{index}" for index in range(len(own))], dtype=object),
        labels=np.eye(len(labels), dtype=np.float32)[own],
        logits=logits.astype(np.float32),
        probabilities=random_predictions.to_probabilities(logits, multi_label=False),
    )
    with pytest.MonkeyPatch.context() as patch:
        tiny_backbone.register(patch)
        keras.utils.set_random_seed(0)
        classifier = models.build_classifier(
            tiny_backbone.NAME, num_classes=len(labels), num_channels=4, image_size_px=64
        )
    return str(data_dir), predictions, classifier


@pytest.fixture(scope="module")
def cells_report(cells, tmp_path_factory):
    data_dir, predictions, classifier = cells
    return write(tmp_path_factory.mktemp("report"), predictions, data_dir=data_dir, classifier=classifier)


@pytest.fixture(scope="module")
def old_report(tmp_path_factory):
    return write(tmp_path_factory.mktemp("old"), random_predictions.predictions_of_confusion())


def write_multi_label(folder):
    options = {"num_cells": 400, "num_classes": 4, "multi_label": True}
    predictions = random_predictions.make_predictions(**options)
    validation = random_predictions.make_predictions(**options, split="validation")
    return write(folder, predictions, validation=validation)


@pytest.fixture(scope="module")
def multi_label_report(tmp_path_factory):
    return write_multi_label(tmp_path_factory.mktemp("multi"))


def test_old_projects_figures_are_told(old_report, tmp_path):
    page = browser.open_page(old_report, tmp_path)
    browser.check_page(page)
    assert "68.5 %" in page.text
    assert "9,482" in page.text
    assert "best classes by recall: Nucleoplasm 82 %, Nuclear speckles 79 %, Mitochondria 74 %" in page.text
    assert re.search(r"worst classes by recall: .*Endoplasmic reticulum 52 %", page.text)
    assert re.search(r"top confusions: .*Plasma membrane as Cytosol \(138 cells, 14 %\)", page.text)
    assert "no validation predictions" in page.text.lower()


def test_browser_shows_the_page_with_cells(cells_report, tmp_path):
    page = browser.open_page(cells_report, tmp_path)
    browser.check_page(page)
    assert sum("Grad-CAM" in image.alt for image in page.images) > hpa_labels.NUM_LABELS


def test_browser_shows_the_page_of_multi_label_data(multi_label_report, tmp_path):
    page = browser.open_page(multi_label_report, tmp_path)
    browser.check_page(page)
    assert "Has it, missed" in page.text
    assert "Threshold" in page.text
    assert (multi_label_report.parent / evaluation_report.MISTAKES_NAME).exists()


def test_page_fits_a_narrow_window(cells_report, tmp_path):
    browser.check_page(browser.open_page(cells_report, tmp_path, width=400))


def test_broken_pages_are_found_out(tmp_path):
    path = tmp_path / "broken.html"
    path.write_text(
        "<html><head></head><body><img alt='a' src='data:image/png;base64,AAAA'>"
        "<img alt='b' src='http://localhost:1/b.png'><script>console.log('hm'); fail()</script></body></html>"
    )
    page = browser.open_page(path, tmp_path)
    assert [image.width for image in page.images] == [0, 0]
    assert page.requests == ("http://localhost:1/b.png",)
    assert "hm" in page.console
    assert any("fail is not defined" in message for message in page.console)
    with pytest.raises(AssertionError):
        browser.check_page(page)


def test_every_class_shows_its_own_cells(cells, cells_report):
    _, predictions, _ = cells
    own = dict(zip(predictions.cell_ids, predictions.labels.argmax(axis=1), strict=True))
    called = dict(zip(predictions.cell_ids, predictions.probabilities.argmax(axis=1), strict=True))
    shown = re.findall(r'alt="([^,"]+), (right|wrong|least sure): cell ([^"]+)"', cells_report.read_text())
    assert {name for name, _, _ in shown} == set(predictions.class_names)
    assert {kind for _, kind, _ in shown} == {"right", "wrong", "least sure"}
    for name, kind, cell_id in shown:
        assert predictions.class_names[own[cell_id]] == name
        if kind != "least sure":
            assert (own[cell_id] == called[cell_id]) == (kind == "right")


def test_grad_cam_is_of_the_class_that_the_cell_is_called(cells, cells_report):
    _, predictions, _ = cells
    called = dict(zip(predictions.cell_ids, predictions.probabilities.argmax(axis=1), strict=True))
    explained = re.findall(r'Grad-CAM of cell (\S+) for ([^"]+)"', cells_report.read_text())
    assert len(explained) > 2 * hpa_labels.NUM_LABELS
    for cell_id, name in explained:
        assert predictions.class_names[called[cell_id]] == name


def test_report_of_19_classes_stays_small(cells_report):
    assert cells_report.stat().st_size < 8e6


def test_same_evaluation_gives_the_same_bytes(multi_label_report, tmp_path):
    again = write_multi_label(tmp_path)
    for path in multi_label_report.parent.iterdir():
        assert (again.parent / path.name).read_bytes() == path.read_bytes()


def test_what_comes_from_the_data_is_escaped(tmp_path):
    evil = "<script>alert('x')</script>&\"'"
    predictions = random_predictions.make_predictions(num_cells=60, num_classes=3)
    info = dataclasses.replace(
        predictions.info,
        classes=tuple(ClassInfo(label, f"{evil}{label}") for label in range(3)),
        split=evil,
        runs=({**predictions.info.runs[0], "name": evil, "model": evil},),
    )
    text = write(tmp_path, dataclasses.replace(predictions, info=info)).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_without_history_and_cells_their_sections_are_left_out(tmp_path):
    predictions = random_predictions.make_predictions(num_cells=60, num_classes=3)
    found = evaluate(predictions, num_resamples=_NUM_RESAMPLES)
    evaluation_report.write_report(str(tmp_path), found, predictions)
    text = (tmp_path / schema.REPORT_NAME).read_text()
    assert "<h2>Classes</h2>" in text
    assert "<h2>Training</h2>" not in text
    assert "<h2>Cells</h2>" not in text


def test_absent_and_never_called_classes_are_warned_of():
    predictions = random_predictions.make_predictions(num_cells=300, num_classes=4)
    labels, logits = predictions.labels.copy(), predictions.logits.copy()
    labels[labels[:, 3] > 0] = np.eye(4)[0]
    logits[:, 2] = -9
    found = evaluate(
        dataclasses.replace(
            predictions,
            labels=labels,
            logits=logits,
            probabilities=random_predictions.to_probabilities(logits, multi_label=False),
        ),
        num_resamples=_NUM_RESAMPLES,
    )
    warnings = evaluation_report.list_warnings(found)
    names = predictions.class_names
    assert any(f"No cell of {names[3]} " in warning for warning in warnings)
    assert any(f"never calls {names[2]}." in warning for warning in warnings)
    assert evaluation_report.draw_matrices(found)


def test_model_of_other_pictures_is_an_error(cells, monkeypatch, tmp_path):
    data_dir, predictions, _ = cells
    tiny_backbone.register(monkeypatch)
    classifier = models.build_classifier(tiny_backbone.NAME, num_classes=19, num_channels=3, image_size_px=64)
    with pytest.raises(ConfigError, match="the model takes"):
        write(tmp_path, predictions, data_dir=data_dir, classifier=classifier)
    assert not list(tmp_path.iterdir())


def test_cells_of_another_data_set_are_an_error(cells, tmp_path):
    data_dir, predictions, _ = cells
    strange = dataclasses.replace(predictions, cell_ids=predictions.cell_ids + "-other")
    with pytest.raises(DatasetError, match=r"has no cell 'test_\d+-other', and \d+ more"):
        write(tmp_path, strange, data_dir=data_dir)


def test_surest_and_least_sure_cells_of_one_class_each():
    predictions = random_predictions.make_predictions(num_cells=300)
    labels = predictions.labels.copy()
    labels[::7] = 0
    predictions = dataclasses.replace(predictions, labels=labels)
    found = evaluate(predictions, num_resamples=_NUM_RESAMPLES)
    highest, called = predictions.probabilities.max(axis=1), predictions.probabilities.argmax(axis=1)
    for k, chosen in enumerate(cell_gallery.choose_cells(found, predictions, limit=4)):
        own = np.flatnonzero(labels[:, k])
        right, wrong = own[called[own] == k], own[called[own] != k]
        assert list(highest[chosen.right]) == sorted(highest[right], reverse=True)[:4]
        assert list(highest[chosen.wrong]) == sorted(highest[wrong], reverse=True)[:4]
        assert list(highest[chosen.unsure]) == sorted(highest[own])[:4]
        assert set(chosen.right) <= set(right)
        assert set(chosen.wrong) <= set(wrong)
        assert set(chosen.unsure) <= set(own)


def test_surest_and_least_sure_cells_of_several_classes_each():
    predictions = random_predictions.make_predictions(num_cells=300, multi_label=True)
    validation = random_predictions.make_predictions(num_cells=300, multi_label=True, split="validation")
    found = evaluate(predictions, validation=validation, num_resamples=_NUM_RESAMPLES)
    for k, chosen in enumerate(cell_gallery.choose_cells(found, predictions, limit=4)):
        own, called = predictions.labels[:, k] > 0, found.predicted[:, k]
        assert (own & called)[chosen.right].all()
        assert (own != called)[chosen.wrong].all()
        distance = np.abs(predictions.probabilities[:, k] - found.classes[k].threshold)
        assert distance[chosen.unsure].max() < np.median(distance)


def test_cells_of_several_classes_say_which_mistake_was_made(cells):
    data_dir, single, _ = cells
    predictions = random_predictions.make_predictions(num_cells=len(single.cell_ids), num_classes=4, multi_label=True)
    predictions = dataclasses.replace(predictions, cell_ids=single.cell_ids)
    found = evaluate(predictions, num_resamples=_NUM_RESAMPLES)
    row_of = {cell_id: row for row, cell_id in enumerate(predictions.cell_ids)}
    galleries = cell_gallery.draw_galleries(found, predictions, data_dir=data_dir, classifier=None)
    assert [gallery.name for gallery in galleries] == predictions.class_names
    seen = set()
    for k, gallery in enumerate(galleries):
        assert gallery.right
        for cell in (*gallery.right, *gallery.wrong, *gallery.unsure):
            own, called = predictions.labels[row_of[cell.cell_id], k] > 0, found.predicted[row_of[cell.cell_id], k]
            verdict = {(True, False): "missed, ", (False, True): "wrongly called, "}.get((bool(own), bool(called)), "")
            percent = f"{100 * predictions.probabilities[row_of[cell.cell_id], k]:.0f}"
            assert cell.caption.replace("\N{NO-BREAK SPACE}", " ") == f"{verdict}{percent} %"
            assert cell.src.startswith("data:image/jpeg;base64,")
            assert cell.explained_src == ""
            seen.add(verdict)
    assert seen == {"", "missed, ", "wrongly called, "}
