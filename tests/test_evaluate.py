"""The command `trainer.evaluate`: one command from a run to a folder, files used again or not, and errors in one line."""

import dataclasses
import json
import os

import keras
import pandas as pd
import pytest

import random_predictions
import tiny_train
import trainer_data
from hpa_proto import schema
from hpa_proto.errors import ConfigError
from trainer import evaluate, evaluation, evaluation_report, models, predict, run_folder, shards
from trainer.checkpoints import Checkpoints
from trainer.config import TrainConfig
from trainer.predictions import read_predictions, write_predictions

tiny_train.register()

CLASSES = (3, 0, 14)
HISTORY = [
    {"epoch": 1, "step": 8, "loss": 1.5, "accuracy": 0.25, "val_loss": 1.25, "val_accuracy": 0.5, "val_macro_f1": 0.25}
]
FILES = {"metrics.json", "confusion.csv", "confusion_percent.csv", "per_class.csv", "confusions.csv", "trust.csv"}
FEW = "--num_resamples=50"


def write_run(path, *, label_scope="single"):
    """Writes the folder of a run of an untrained model."""
    config = TrainConfig(data_dir="data", run_dir=str(path), model="tiny")
    record = {
        "config": config.decisive(),
        "dtype_policy": "float32",
        "classes": [{"label": label, "name": f"class {label}"} for label in CLASSES],
        "label_scope": label_scope,
        "channels": ["red", "green", "blue", "yellow"],
        "image_size_px": 32,
        "manifest_sha256": "0" * 64,
    }
    folder = run_folder.RunFolder(str(path))
    folder.open(record)
    keras.utils.set_random_seed(3)
    classifier = models.build_classifier("tiny", num_classes=3, num_channels=4, image_size_px=32, dropout=0.0)
    Checkpoints(str(path)).save_best(classifier, monitor="val_loss", value=0.5, epoch=4)
    folder.write_history(HISTORY)
    return path


def save(path, predictions):
    """Writes predictions to a file."""
    names = {"cell_id": "cell_ids", "labels": "labels", "logits": "logits", "probabilities": "probabilities"}
    write_predictions(str(path), predictions.info, [{key: getattr(predictions, name) for key, name in names.items()}])
    return str(path)


def call(capsys, *flags):
    """Runs the command; returns exit status, stdout and stderr."""
    status = evaluate.main(["evaluate", *flags])
    return (status, *capsys.readouterr())


@pytest.fixture
def without_report(monkeypatch):
    monkeypatch.setattr(evaluation_report, "write_report", lambda *_, **__: None)


@pytest.fixture
def without_model(monkeypatch):
    """Fails when a split is predicted."""

    def run(config):
        raise AssertionError(f"predicts {config.split}")

    monkeypatch.setattr(predict, "run", run)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set and a run whose splits are predicted."""
    folder = tmp_path_factory.mktemp("evaluate")
    data_dir = trainer_data.write_dataset(folder / "dataset", classes=CLASSES)
    run_dir = write_run(folder / "first")
    for split in ("test", "validation"):
        predict.run(predict.PredictConfig((str(run_dir),), str(data_dir), split))
    return str(run_dir), str(data_dir)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Predictions files of test and validation, single-label and multi-label."""
    folder = tmp_path_factory.mktemp("predictions")
    found = {}
    for multi_label in (False, True):
        for seed, split in enumerate(("test", "validation")):
            own = random_predictions.make_predictions(multi_label=multi_label, split=split, seed=seed)
            found[multi_label, split] = save(folder / f"{split}-{multi_label}.parquet", own)
    return found


def test_one_command_predicts_judges_and_writes_the_folder(tmp_path, capsys):
    data_dir = trainer_data.write_dataset(tmp_path / "dataset", classes=CLASSES)
    run_dir = write_run(tmp_path / "first")
    status, printed, errors = call(capsys, f"--run_dir={run_dir}", f"--data_dir={data_dir}", FEW)
    assert status == 0, errors
    assert "predicting split 'test'\npredicting split 'validation'\ntest: 12 cells of 1 FOV\naccuracy " in printed
    assert printed.endswith(f"see {run_dir}/report/report.html\n")
    report = run_dir / "report"
    assert {path.name for path in report.iterdir()} >= {*FILES, "report.html"}
    metrics = json.loads((report / "metrics.json").read_text())
    predictions = read_predictions(str(run_dir / "predictions-test.parquet"))
    right = (predictions.probabilities.argmax(axis=1) == predictions.labels.argmax(axis=1)).mean()
    assert metrics["overall"]["accuracy"]["value"] == pytest.approx(right)
    assert metrics["history"] == HISTORY
    assert metrics["thresholds_from"] == "validation"
    assert metrics["info"]["runs"][0]["epoch"] == 4
    assert pd.read_csv(report / "confusion.csv").iloc[:, 1:].to_numpy().tolist() == metrics["confusion"]


@pytest.mark.usefixtures("without_report", "without_model")
def test_predictions_that_are_there_are_used_again(folders, tmp_path, capsys):
    flags = [f"--run_dir={folders[0]}", f"--data_dir={folders[1]}", f"--out_dir={tmp_path}", "--nograd_cam", FEW]
    assert call(capsys, *flags)[0] == 0
    first = (tmp_path / "metrics.json").read_bytes()
    assert call(capsys, *flags)[0] == 0
    assert (tmp_path / "metrics.json").read_bytes() == first


@pytest.mark.usefixtures("without_model")
@pytest.mark.parametrize("case", ["newer checkpoint", "another data set", "damaged file", "another checkpoint", "tta"])
def test_predictions_that_are_of_something_else_are_made_again(folders, tmp_path, case):
    run_dir = tmp_path / "first"
    run_dir.mkdir()
    for name in ("checkpoints", "config.json", "history.csv"):
        os.symlink(f"{folders[0]}/{name}", run_dir / name)
    own = read_predictions(f"{folders[0]}/predictions-test.parquet")
    if case == "another data set":
        own = dataclasses.replace(own, info=dataclasses.replace(own.info, manifest_sha256="0" * 64))
    elif case == "another checkpoint":
        runs = ({**own.info.runs[0], "checkpoint": "last"},)
        own = dataclasses.replace(own, info=dataclasses.replace(own.info, runs=runs))
    elif case == "tta":
        own = dataclasses.replace(own, info=dataclasses.replace(own.info, tta=True))
    path = run_dir / "predictions-test.parquet"
    save(path, own)
    if case == "damaged file":
        path.write_bytes(path.read_bytes()[:-10])
    elif case == "newer checkpoint":
        os.utime(path, (0, 0))
    with pytest.raises(AssertionError, match="predicts test"):
        evaluate.run(evaluate.EvaluateConfig(run_dir=str(run_dir), data_dir=folders[1]))


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize("multi_label", [False, True])
def test_predictions_files_are_judged_without_run_and_data_set(files, tmp_path, capsys, multi_label):
    paths = [files[multi_label, split] for split in ("test", "validation")]
    flags = (f"--predictions={paths[0]}", f"--validation_predictions={paths[1]}", f"--out_dir={tmp_path}", FEW)
    status, printed, errors = call(capsys, *flags)
    assert status == 0, errors
    assert {path.name for path in tmp_path.iterdir()} == FILES | ({"mistakes.csv"} if multi_label else set())
    expected = evaluation.evaluate(
        *map(read_predictions, paths[:1]), validation=read_predictions(paths[1]), num_resamples=50
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(expected.to_json()))
    assert "test: 600 cells of 100 FOVs" in printed
    assert ("micro F1" in printed) == multi_label


def test_old_projects_report_is_written(tmp_path, capsys):
    path = save(tmp_path / "old.parquet", random_predictions.predictions_of_confusion())
    status, printed, errors = call(capsys, f"--predictions={path}", f"--out_dir={tmp_path / 'report'}", FEW)
    assert status == 0, errors
    assert "accuracy 68.5 % (" in printed
    assert "best classes by recall: Nucleoplasm 82 %, Nuclear speckles 79 %, Mitochondria 74 %" in printed
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Endoplasmic reticulum 52 %" in page
    assert "Plasma membrane as Cytosol (138 cells, 14 %)" in page


@pytest.mark.usefixtures("without_report", "without_model")
def test_damaged_folder_has_no_metrics(files, tmp_path, monkeypatch):
    (tmp_path / "metrics.json").write_text("{}")

    def write_report(*_, **__):
        raise OSError("no room")

    monkeypatch.setattr(evaluation_report, "write_report", write_report)
    with pytest.raises(OSError, match="no room"):
        evaluate.run(evaluate.EvaluateConfig(predictions=files[False, "test"], out_dir=str(tmp_path), num_resamples=10))
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.usefixtures("without_report", "without_model")
def test_errors_are_one_line(files, folders, tmp_path, capsys):
    test, validation = files[False, "test"], files[False, "validation"]
    junk = tmp_path / "junk.parquet"
    junk.write_bytes(b"junk")
    unlabelled = trainer_data.write_dataset(tmp_path / "unlabelled", label_sets={"test": [()]})
    manifest = schema.parse_manifest((unlabelled / "manifest.json").read_text(), source="")
    manifest.label_scope = "unlabelled"
    (unlabelled / "manifest.json").write_text(schema.format_manifest(manifest))
    cases = {
        (): "give --predictions, or --run_dir and --data_dir to make them",
        (f"--run_dir={folders[0]}",): "give --predictions, or --run_dir and --data_dir",
        (f"--validation_predictions={validation}", "--run_dir=r", "--data_dir=d"): "goes with --predictions",
        (f"--predictions={test}", "--num_resamples=0"): "--num_resamples=0: give at least 1",
        (f"--predictions={test}", "--seed=-1"): "--seed=-1: give 0 or more",
        (f"--predictions={test}", "--bins=3"): "Unknown command line flag 'bins'",
        (f"--predictions={junk}",): "junk.parquet: not a predictions file",
        (f"--predictions={tmp_path}/absent.parquet",): "absent.parquet: no such file",
        (f"--predictions={test}", f"--validation_predictions={test}"): "100 FOVs are in the validation predictions",
        (
            f"--predictions={test}",
            f"--validation_predictions={files[True, 'validation']}",
        ): "multi_label yes, not no",
        (f"--predictions={test}", f"--data_dir={folders[1]}"): f"are of another data set than {folders[1]}",
        (f"--predictions={test}", f"--data_dir={tmp_path}"): "no manifest.json",
        (f"--predictions={test}", f"--run_dir={tmp_path / 'second'}"): "the predictions are of first; name that run",
        (f"--run_dir={folders[0]}", f"--data_dir={unlabelled}"): "has no labels, so nothing can be judged",
    }
    for flags, message in cases.items():
        status, _, errors = call(capsys, *flags, f"--out_dir={tmp_path / 'report'}")
        assert (status, len(errors.splitlines())) == (1, 1), (flags, errors)
        assert errors.startswith("error: ")
        assert message in errors
    assert not (tmp_path / "report").exists()


def test_ids_that_are_not_the_data_sets_are_an_error(folders, tmp_path, capsys):
    own = random_predictions.make_predictions(num_cells=11, num_classes=3)
    info = dataclasses.replace(own.info, manifest_sha256=shards.read_manifest(folders[1])[1])
    path = save(tmp_path / "own.parquet", dataclasses.replace(own, info=info))
    status, _, errors = call(capsys, f"--predictions={path}", f"--data_dir={folders[1]}", f"--out_dir={tmp_path}")
    assert status == 1
    assert "11 predictions, but split 'test'" in errors


def test_history_that_is_none_is_an_error(files, tmp_path):
    run_dir = tmp_path / "first"
    run_dir.mkdir()
    (run_dir / "history.csv").write_text("epoch,loss\n1,many\n")
    with pytest.raises(ConfigError, match=r"history\.csv: not the history of a run"):
        evaluate.run(evaluate.EvaluateConfig(predictions=files[False, "test"], run_dir=str(run_dir)))


def test_every_field_has_a_flag_and_the_same_default():
    assert evaluate.make_config(["evaluate", "--predictions=file"]) == evaluate.EvaluateConfig(predictions="file")
    assert evaluate.make_config(["evaluate", "--help"]) is None


def test_folder_is_the_runs_unless_named():
    config = evaluate.EvaluateConfig(run_dir="runs/first", data_dir="data")
    assert config.folder == "runs/first/report"
    assert dataclasses.replace(config, out_dir="here").folder == "here"
    assert evaluate.EvaluateConfig(predictions="file").folder == "report"
