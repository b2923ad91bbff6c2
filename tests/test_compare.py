"""Promises of comparing runs: the table says what the runs' files say, differences are paired, the page is sound."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

import browser
import random_predictions
import tiny_backbone
import tiny_train
import trainer_data
from hpa_proto.errors import ConfigError
from trainer import compare, comparison, comparison_report, loop, predict, trained_model
from trainer.bootstrap import Difference
from trainer.config import TrainConfig
from trainer.evaluation import evaluate
from trainer.optimizers import OptimizerConfig
from trainer.predictions import read_predictions, write_predictions

_NUM_RESAMPLES = 50


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two real runs of a small backbone, with predictions; the second trains its head only."""
    folder = tmp_path_factory.mktemp("compare")
    data_dir = trainer_data.write_dataset(folder / "data", examples_per_class=8, size_px=64)
    with pytest.MonkeyPatch.context() as patch:
        tiny_backbone.register(patch)
        tiny_train.draw_no_pictures(patch)
        for name, freeze in (("first", False), ("second", True)):
            config = TrainConfig(
                data_dir=str(data_dir),
                run_dir=str(folder / name),
                model=tiny_backbone.NAME,
                batch_size=6,
                epochs=2,
                steps_per_epoch=2,
                freeze=freeze,
                augment=None,
                tensorboard=False,
                optimizer=OptimizerConfig(learning_rate=0.01),
            )
            loop.run(config)
            predict.run(predict.PredictConfig((str(folder / name),), str(data_dir)))
        yield folder


@pytest.fixture(scope="module")
def found(runs):
    return compare.run(
        compare.CompareConfig(
            (str(runs / "first"), str(runs / "second")), out_dir=str(runs / "out"), num_resamples=_NUM_RESAMPLES
        )
    )


def test_table_says_what_the_files_say(runs, found):
    table = pd.read_csv(runs / "out" / compare.TABLE_NAME).set_index("run")
    assert list(table.index) == ["first", "second"]
    for name, row in table.iterrows():
        history = pd.read_csv(runs / name / "history.csv")
        best = history.loc[history["val_loss"].idxmin()]
        assert row["best_epoch"] == best["epoch"]
        assert row["train_accuracy"] == pytest.approx(best["accuracy"])
        assert row["validation_macro_f1"] == pytest.approx(best["val_macro_f1"])
        # Two epochs of two steps of six pictures.
        assert row["train_sec"] == pytest.approx((12 / history["images_per_second"]).sum())
        expected = evaluate(
            read_predictions(str(runs / name / "predictions-test.parquet")), num_resamples=_NUM_RESAMPLES
        )
        assert row["test_accuracy"] == pytest.approx(expected.overall["accuracy"].value)
        assert row["test_macro_f1"] == pytest.approx(expected.overall["macro_f1"].value)
    assert (table["input_px"] == 64).all()
    assert not found.notes


def test_frozen_parameters_do_not_count(runs, found):
    first, second = found.runs
    classifier = trained_model.load_trained_model(str(runs / "first")).classifier
    assert first.num_parameters == sum(variable.numpy().size for variable in classifier.trainable_variables)
    assert second.num_parameters == (tiny_backbone.NUM_FEATURES + 1) * 3


def test_markdown_and_page_say_the_same(runs, found, tmp_path):
    markdown = (runs / "out" / compare.MARKDOWN_NAME).read_text()
    page = browser.open_page(runs / "out" / compare.PAGE_NAME, tmp_path)
    browser.check_page(page)
    assert len(page.images) == 3
    shown = " ".join(page.text.split())
    for row in (*comparison_report.list_rows(found), *comparison_report.list_differences(found)):
        assert f"| {' | '.join(row)} |" in markdown
        for text in row:
            assert text in shown


def test_main_prints_markdown(runs, found, capsys):
    argv = ["compare", str(runs / "first"), f"--num_resamples={_NUM_RESAMPLES}", str(runs / "second")]
    assert compare.main(argv) == 0
    assert capsys.readouterr().out == comparison_report.render_markdown(found)


def copy_run(runs, name, folder, predictions=None):
    shutil.copytree(runs / "first", folder / name)
    path = folder / name / "predictions-test.parquet"
    path.unlink()
    if predictions is not None:
        info = dataclasses.replace(
            predictions.info, runs=({**predictions.info.runs[0], "epoch": read_best_epoch(runs)},)
        )
        batch = {
            "cell_id": predictions.cell_ids,
            "labels": predictions.labels,
            "logits": predictions.logits,
            "probabilities": predictions.probabilities,
        }
        write_predictions(str(path), info, [batch])
    return str(folder / name)


def read_best_epoch(runs):
    history = pd.read_csv(runs / "first" / "history.csv")
    return int(history.loc[history["val_loss"].idxmin(), "epoch"])


def test_difference_is_paired_whatever_the_order_of_the_cells(runs, tmp_path):
    predictions = random_predictions.make_predictions(num_cells=300, num_classes=3, skill=1.0)
    better = random_predictions.make_predictions(num_cells=300, num_classes=3, skill=2.5)
    order = np.random.default_rng(0).permutation(300)
    arrays = {
        name: getattr(better, name)[order] for name in ("cell_ids", "fov_ids", "labels", "logits", "probabilities")
    }
    run_dirs = [
        copy_run(runs, "worse", tmp_path, predictions),
        copy_run(runs, "better", tmp_path, dataclasses.replace(better, **arrays)),
        copy_run(runs, "same", tmp_path, predictions),
        copy_run(runs, "silent", tmp_path),
    ]
    found = comparison.compare_runs(run_dirs, split="test", num_resamples=_NUM_RESAMPLES)
    worse, better_run, _, _ = found.runs
    difference = found.differences["better"]["accuracy"]
    assert difference.value == pytest.approx(
        better_run.figures["accuracy"].value - worse.figures["accuracy"].value, abs=1e-9
    )
    assert 0 < difference.low < difference.value < difference.high
    same = found.differences["same"]["accuracy"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert same.p_value == 1
    assert "silent" not in found.differences
    assert found.notes == ("silent: no predictions-test.parquet; write it with `python -m trainer.predict`.",)
    assert comparison_report.list_rows(found)[3][-3:] == ["-", "-", "-"]
    assert math.isnan(comparison.make_table(found)["test_accuracy"].iloc[3])


def test_recall_of_the_rarest_third_is_of_the_classes_with_the_fewest_cells(runs, tmp_path):
    predictions = random_predictions.predictions_of_confusion(
        np.array([[40, 5, 0, 5], [1, 8, 1, 0], [0, 0, 60, 0], [2, 0, 0, 2]]), (0, 2, 5, 7), cells_per_fov=5
    )
    perfect = dataclasses.replace(
        predictions, probabilities=predictions.labels, logits=(predictions.labels * 9).astype(np.float32)
    )
    run_dirs = [copy_run(runs, "some", tmp_path, predictions), copy_run(runs, "all", tmp_path, perfect)]
    found = comparison.compare_runs(run_dirs, split="test", num_resamples=_NUM_RESAMPLES)
    # A third of four classes is one: Golgi apparatus, with 4 cells, 2 of them right.
    assert [run.rare_classes for run in found.runs] == [("Golgi apparatus",)] * 2
    assert [run.figures["rare_recall"].value for run in found.runs] == [0.5, 1]
    assert found.differences["all"]["rare_recall"].value == 0.5
    assert comparison.make_table(found)["test_rare_recall"].tolist() == [0.5, 1]
    assert "rarest third of the classes on test, by cells: Golgi apparatus;" in comparison_report.render_markdown(found)


@pytest.mark.parametrize(
    ("counts", "rarest"),
    [
        ((5, 1, 3), [1]),
        ((5, 0, 3), [2]),
        ((4,), [0]),
        ((2, 2, 9, 9, 9), [0, 1]),
        ((8, 7, 6, 5, 4, 3, 2, 1), [5, 6, 7]),
        (tuple(range(19)), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_rarest_third_is_of_the_classes_that_occur(counts, rarest):
    labels = np.repeat(np.eye(len(counts), dtype=bool), counts, axis=0)
    assert comparison.find_rarest_third(labels).tolist() == rarest


def test_runs_of_other_cells_stand_side_by_side_without_a_difference(runs, tmp_path):
    run_dirs = [
        copy_run(runs, name, tmp_path, random_predictions.make_predictions(num_cells=num_cells, num_classes=3))
        for name, num_cells in (("many", 120), ("few", 60))
    ]
    found = comparison.compare_runs(run_dirs, split="test", num_resamples=_NUM_RESAMPLES)
    assert found.differences == {}
    assert any("many and few: the runs cannot be compared" in note for note in found.notes)


def test_runs_of_one_name_are_told_apart(runs, tmp_path):
    other = copy_run(runs, "first", tmp_path)
    found = comparison.compare_runs([str(runs / "first"), other], split="test", num_resamples=_NUM_RESAMPLES)
    assert [run.name for run in found.runs] == [str(runs / "first"), other]


def test_names_are_escaped(runs, found):
    evil = "<script>|x"
    run = dataclasses.replace(found.runs[0], name=evil)
    changed = dataclasses.replace(found, runs=(run, found.runs[1]), notes=(evil,))
    assert "<script" not in comparison_report.render_page(changed)
    markdown = comparison_report.render_markdown(changed)
    assert "<script" not in markdown
    table = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert table[2].replace("\\|", "").count("|") == table[0].count("|")


@pytest.mark.parametrize(
    ("sec", "text"),
    [(47.6, "48 s"), (89, "89 s"), (12 * 60, "12 min"), (3599, "1 h 00 min"), (11220, "3 h 07 min"), (math.nan, "-")],
)
def test_times_are_written_as_people_say_them(sec, text):
    assert comparison_report.format_time(sec) == text


def test_points_and_losses_have_signs():
    difference = Difference(0.0123, -0.002, 0.03, p_value=0.2)
    assert comparison_report.format_difference("accuracy", difference) == "+1.2 points (-0.2 to +3.0)"
    assert comparison_report.format_difference("log_loss", difference) == "+0.012 (-0.002 to +0.030)"
    assert comparison_report.format_difference("accuracy", Difference(math.nan)) == "-"


def test_run_without_a_finished_epoch_is_an_error(runs, tmp_path):
    run_dir = copy_run(runs, "young", tmp_path)
    (tmp_path / "young" / "history.csv").unlink()
    with pytest.raises(ConfigError, match="no epoch of this run is finished"):
        comparison.compare_runs([run_dir], split="test")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name the runs"),
        (["nowhere"], "nowhere is no run (no config.json in it)"),
        (["nowhere", "nowhere/"], "a run stands twice"),
        (["nowhere", "--num_resamples=0"], "--num_resamples=0"),
        (["nowhere", "--colour=red"], "--help lists all flags"),
    ],
)
def test_wrong_command_lines_end_in_one_line(arguments, text, capsys):
    assert compare.main(["compare", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert text in error
    assert error.count("\n") == 1


def test_no_predictions_of_the_split_are_an_error(runs, capsys):
    assert compare.main(["compare", str(runs / "first"), str(runs / "second"), "--split=nowhere"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: no run has predictions of split 'nowhere' (looked for predictions-nowhere.parquet)")
    assert len(said.splitlines()) == 1


def test_help_has_every_flag(capsys):
    assert compare.main(["compare", "--help"]) == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(compare.CompareConfig):
        assert field.name == "run_dirs" or f"--{field.name}" in text.replace("[no]", "")


def test_damaged_history_is_an_error(runs, tmp_path):
    run_dir = copy_run(runs, "damaged", tmp_path)
    (tmp_path / "damaged" / "history.csv").write_text("epoch,step\n1,two\n")
    with pytest.raises(ConfigError, match="not the history of a run"):
        comparison.compare_runs([run_dir], split="test")


def test_config_of_the_runs_is_read_only(runs, found):
    assert json.loads((runs / "first" / "config.json").read_text())["run"] == found.runs[0].record
