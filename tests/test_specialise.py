"""The command `trainer.specialise` on made-up predictions whose answers are known."""

import json
import shlex

import numpy as np
import pandas as pd
import pytest

import trainer_data
from beam_jobs import shard as shard_command
from hpa_proto import schema, storage
from hpa_proto.errors import ConfigError, DatasetError
from trainer import predictions, second_model, shards, specialise
from trainer.predictions import ClassInfo, PredictionsInfo
from trainer.specialise import SpecialiseConfig

CLASSES = (16, 0, 14, 3)
NAMES = {16: "Cytosol", 0: "Nucleoplasm", 14: "Mitochondria", 3: "Nucleoli fibrillar center"}
# (true class, what the first says, what the second says); the second knows 14 and 3 only.
CELLS = (
    *[(16, 16, 14)] * 4,
    (16, 14, 3),  # wrong before, wrong after
    *[(0, 0, 3)] * 4,
    (14, 14, 14),
    (14, 3, 14),  # mended
    (14, 3, 14),  # mended
    (14, 16, 14),  # never sent
    (3, 3, 14),  # broken
    (3, 3, 3),
    (3, 14, 3),  # mended
)


def write(path, answers, *, classes=CLASSES, truths=None, first_mass=None, **info):
    """Writes predictions whose likeliest classes are `answers`; truths None: without labels."""
    columns = [classes.index(label) for label in answers]
    logits = 4 * np.eye(len(classes))[columns]
    likelihoods = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if first_mass is not None:
        likelihoods = first_mass
    labels = np.zeros((len(answers), len(classes)))
    if truths is not None:
        labels[np.arange(len(answers)), [classes.index(label) for label in truths]] = 1
    values = {
        "classes": tuple(ClassInfo(label, NAMES[label]) for label in classes),
        "label_scope": "single",
        "multi_label": False,
        "split": "test",
        "manifest_sha256": "0" * 64,
        "runs": ({"name": "first", "run_dir": "first", "checkpoint": "best", "epoch": 4, "model": "tiny"},),
        "tta": False,
    }
    batch = {
        "cell_id": [f"test{i // 4}_{i}" for i in range(len(answers))],
        "labels": labels,
        "logits": logits,
        "probabilities": likelihoods,
    }
    predictions.write_predictions(str(path), PredictionsInfo(**{**values, **info}), [batch])
    return str(path)


@pytest.fixture
def pair(tmp_path):
    truths, first, second = zip(*CELLS, strict=True)
    return {
        "predictions": write(tmp_path / "first.parquet", first, truths=truths),
        "second_predictions": write(tmp_path / "second.parquet", second, classes=(3, 14), label_scope="unlabelled"),
    }


def test_the_two_together_are_judged_beside_the_first_alone(pair, tmp_path):
    found = specialise.run(SpecialiseConfig(**pair))
    assert found["counts"] == {
        "num_cells": 16,
        "num_routed": 7,
        "num_routed_in_scope": 6,
        "num_changed": 5,
        "num_mended": 3,
        "num_broken": 1,
    }
    assert found["one"]["accuracy"] == pytest.approx(11 / 16)
    assert found["both"]["accuracy"] == pytest.approx(13 / 16)
    # F1 = 2 hits / (support + calls), by hand from CELLS.
    one, both = [8 / 10, 1.0, 2 / 7, 4 / 7], [8 / 10, 1.0, 6 / 8, 4 / 6]
    assert [row["f1"] for row in found["classes_one"]] == pytest.approx(one)
    assert [row["f1"] for row in found["classes_both"]] == pytest.approx(both)
    assert found["one"]["macro_f1"] == pytest.approx(np.mean(one))
    assert found["both"]["macro_f1"] == pytest.approx(np.mean(both))
    assert found["difference"]["accuracy"]["value"] == pytest.approx(2 / 16)
    assert found["difference"]["accuracy"]["low"] <= 2 / 16 <= found["difference"]["accuracy"]["high"]
    assert json.loads((tmp_path / "specialised.json").read_text()) == found


def test_rows_of_the_second_file_may_come_in_any_order(pair, tmp_path):
    wanted = specialise.run(SpecialiseConfig(**pair))
    second = predictions.read_predictions(pair["second_predictions"])
    order = np.random.default_rng(0).permutation(second.num_cells)
    batch = {"cell_id": second.cell_ids[order], "labels": second.labels[order]}
    batch |= {name: getattr(second, name)[order] for name in ("logits", "probabilities")}
    predictions.write_predictions(pair["second_predictions"], second.info, [batch])
    assert specialise.run(SpecialiseConfig(**pair)) == wanted


def test_probability_mass_routes_more_than_the_likeliest_class(tmp_path):
    mass = np.array([[0.4, 0, 0.3, 0.3], [0.6, 0, 0.2, 0.2], [0, 0, 0.9, 0.1]])
    config = SpecialiseConfig(
        predictions=write(tmp_path / "first.parquet", (16, 16, 14), truths=(3, 16, 14), first_mass=mass),
        second_predictions=write(tmp_path / "second.parquet", (3, 14, 14), classes=(14, 3)),
        min_mass=0.5,
    )
    found = specialise.run(config)
    assert (found["counts"]["num_routed"], found["counts"]["num_mended"]) == (2, 1)
    assert (found["one"]["accuracy"], found["both"]["accuracy"]) == (pytest.approx(2 / 3), 1.0)
    assert found["rule"] == "probability mass of at least 0.5"
    assert found["difference"]["accuracy"]["low"] is None, "one FOV tells nothing about others"


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"classes": CLASSES}, "it has all of them"),
        ({"classes": (14, 3), "multi_label": True}, "one class"),
        ({"classes": (14, 3), "answers": (14,)}, r"lack 6 of 7 cells .* as 'test2_9'; .*--ignore_labels"),
    ],
)
def test_second_predictions_that_do_not_fit_are_an_error(pair, tmp_path, second, reason):
    options = {"answers": (14,) * 16, **second}
    if len(options["answers"]) == 1:
        options["answers"] = (14,) * 5
    path = write(tmp_path / "other.parquet", options.pop("answers"), **options)
    with pytest.raises(DatasetError, match=reason):
        specialise.run(SpecialiseConfig(**{**pair, "second_predictions": path}))


def test_a_class_that_the_first_lacks_is_an_error(pair, tmp_path):
    first = write(tmp_path / "first.parquet", (16, 0), classes=(16, 0, 14), truths=(16, 0))
    with pytest.raises(DatasetError, match="Nucleoli fibrillar center are none of them"):
        specialise.run(SpecialiseConfig(predictions=first, second_predictions=pair["second_predictions"]))


def write_plan(folder, split_of_fov):
    folder.mkdir()
    rows = [{"cell_id": f"{fov}_1", "fov_id": fov, "split": split} for fov, split in split_of_fov.items()]
    pd.DataFrame(rows).to_parquet(folder / schema.PLAN_NAME)
    return str(folder)


def test_fovs_that_the_second_learned_from_are_not_judged(pair, tmp_path):
    leaking = write_plan(tmp_path / "leaking", {"test0": "test", "test2": "train", "other": "train", "test1": ""})
    with pytest.raises(DatasetError, match=r"1 of the 4 FOVs that are judged .* as test2, .*would be flattered"):
        specialise.run(SpecialiseConfig(**pair, second_data_dir=leaking))
    sound = write_plan(tmp_path / "sound", {"test0": "test", "test2": "", "other": "train"})
    found = specialise.run(SpecialiseConfig(**pair, second_data_dir=sound))
    assert found["fovs_checked_to_be_unknown_to_the_second"]
    with pytest.raises(DatasetError, match=r"plan\.parquet: no plan to be read"):
        specialise.run(SpecialiseConfig(**pair, second_data_dir=str(tmp_path)))


@pytest.fixture
def chosen_from(tmp_path):
    """Predictions of a real data set's validation split, with its folder; F1: 0.8, 1, 2/7, 4/7."""
    truths, answers, _ = zip(*CELLS, strict=True)
    folder = trainer_data.write_dataset(
        tmp_path / "set", classes=CLASSES, label_sets={"validation": [(label,) for label in truths]}, num_shards=1
    )
    path = folder / schema.MANIFEST_NAME
    manifest = schema.parse_manifest(path.read_text(), source="test")
    manifest.command_line.extend(["--cells_dir=my cells", "--min_focus", "0.5", "--drop_border_cells", "--seed=7"])
    manifest.command_line.extend(["--drop_classes=Negative", "--min_cells_per_class=3", "--num_workers=2"])
    manifest.jpeg_quality = 95
    path.write_text(schema.format_manifest(manifest))
    _, digest = shards.read_manifest(str(folder))
    first = write(tmp_path / "first.parquet", answers, truths=truths, split="validation", manifest_sha256=digest)
    return {"predictions": first, "data_dir": str(folder)}


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({"below": 0.6}, [14, 3]),
        ({"below": 0.81}, [14, 3, 16]),
        ({"worst": 2}, [14, 3]),
        ({"worst": 2, "figure": "recall"}, [14, 3]),
        ({"worst": 3, "figure": "precision"}, [14, 3, 16]),
    ],
)
def test_the_worst_classes_are_chosen(chosen_from, options, labels):
    found = specialise.run(SpecialiseConfig(**chosen_from, **options))
    assert [row["label"] for row in found["classes"]] == labels
    assert sorted(row["label"] for row in found["classes"] + found["other_classes"]) == sorted(CLASSES)
    assert found["classes_flag"] == f"--classes={','.join(map(str, labels))}"


def test_figures_of_the_chosen_classes_are_written(chosen_from, tmp_path):
    found = specialise.run(SpecialiseConfig(**chosen_from, below=0.6))
    wanted = {"label": 14, "name": "Mitochondria", "support": 4, "precision": 1 / 3, "recall": 0.25, "f1": 2 / 7}
    assert found["classes"][0] == pytest.approx(wanted)
    assert json.loads((tmp_path / "specialise.json").read_text()) == found


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"below": 0.3}, "1 classes have f1 below 0.3.*lowest are Mitochondria 0.286"),
        ({"below": 0.1}, "0 classes have f1 below 0.1"),
        ({"worst": 4}, "all 4 classes would go"),
    ],
)
def test_one_class_or_all_are_no_scope(chosen_from, tmp_path, options, reason):
    with pytest.raises(ConfigError, match=reason):
        specialise.run(SpecialiseConfig(**chosen_from, **options))
    assert not (tmp_path / "specialise.json").exists()


def test_predictions_of_another_data_set_are_an_error(chosen_from, tmp_path):
    other = trainer_data.write_dataset(tmp_path / "other", classes=CLASSES)
    with pytest.raises(DatasetError, match="of another data set"):
        specialise.run(SpecialiseConfig(chosen_from["predictions"], str(other), below=0.6))


def test_the_commands_choose_cells_as_before_but_for_the_classes(chosen_from):
    commands = specialise.run(SpecialiseConfig(**chosen_from, below=0.6))["commands"]
    argv = shlex.split(commands[0])
    assert argv[:3] == ["python", "-m", "beam_jobs.shard"]
    folder = chosen_from["data_dir"]
    assert set(argv[3:]) == {
        "--cells_dir=my cells",
        "--min_focus=0.5",
        "--drop_border_cells=true",
        "--seed=7",
        f"--data_dir={folder}-weak",
        f"--splits_of={folder}",
        "--classes=14,3",
        "--label_scope=single",
        "--image_size_px=32",
        "--channels=rgby",
        "--format=jpeg-planes",
        "--jpeg_quality=95",
        "--mask_background=false",
        "--keep_aspect_ratio=false",
    }
    assert (
        commands[1]
        == f"python -m trainer.train --data_dir={folder}-weak --runs_dir=runs --name=first-weak --model=tiny"
    )
    assert commands[3].endswith("--run_dir=runs/first-weak --data_dir=" + folder + " --split=test --ignore_labels=true")
    assert "--second_predictions=runs/first-weak/predictions-test.parquet" in commands[4]


def test_no_credential_stands_in_the_commands(chosen_from, tmp_path):
    url = "memory://someone:planted-secret@host/set"
    for name in storage.list_files(chosen_from["data_dir"]):
        storage.write_bytes(storage.join(url, name), storage.read_bytes(storage.join(chosen_from["data_dir"], name)))
    commands = specialise.run(SpecialiseConfig(chosen_from["predictions"], url, below=0.6))["commands"]
    assert "--data_dir=memory://***@host/set-weak" in shlex.split(commands[0])
    assert "planted-secret" not in (tmp_path / "specialise.json").read_text()


@pytest.mark.parametrize("runs", ["runs", "s3://bucket/runs"])
def test_the_commands_name_the_folder_of_the_run(chosen_from, runs):
    manifest, _ = shards.read_manifest(chosen_from["data_dir"])
    info = predictions.read_info(chosen_from["predictions"])
    options = {"classes": "14,3", "data_dir": "set", "predictions": f"{runs}/first/predictions-validation.parquet"}
    commands = second_model.make_commands(manifest, info, **options)
    assert f"--runs_dir={runs} --name=first-weak" in commands[1]
    assert f"--run_dir={runs}/first " in commands[2]


def test_every_flag_of_the_command_is_one_of_shards(chosen_from):
    commands = specialise.run(SpecialiseConfig(**chosen_from, below=0.6))["commands"]
    used = {token[2:].partition("=")[0] for token in shlex.split(commands[0])[3:]}
    # The mains of beam_jobs that shard's module brings along share one registry, as cells_dir does.
    known = set(shard_command.flags.FLAGS)
    assert (used | set(second_model.KEPT_FLAGS)) <= known


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        (["--a=1", "-b=x=y"], {"a": "1", "b": "x=y"}),
        (["--min_focus", "0.5", "--drop_border_cells"], {"min_focus": "0.5", "drop_border_cells": "true"}),
        (["--nodrop_border_cells"], {"drop_border_cells": "false"}),
        (["--norbert=1", "stray"], {"norbert": "1"}),
    ],
)
def test_flags_are_read_back_from_a_manifests_command_line(tokens, wanted):
    assert second_model.read_flags(tokens) == wanted


def test_the_command_prints_tables(pair, chosen_from, capsys):
    flags = [f"--{name}={value}" for name, value in pair.items()]
    assert specialise.main(["specialise", *flags]) == 0
    printed = capsys.readouterr().out
    assert "accuracy: one 0.6875, both 0.8125, difference +0.1250 (95 % of resamples of FOVs: " in printed
    assert "7 of 16 cells went to the second model (likeliest class), 6 of them of its classes" in printed
    assert "5 answers changed: 3 became right, 1 wrong" in printed
    assert "not checked whether the second model learned from these FOVs" in printed
    flags = [f"--{name}={value}" for name, value in chosen_from.items()]
    assert specialise.main(["specialise", *flags, "--worst=2"]) == 0
    printed = capsys.readouterr().out
    assert "Mitochondria        4" in printed
    assert "python -m beam_jobs.shard " in printed


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "--predictions is missing"),
        (["--predictions=p"], "--below=0.6 or --worst=3"),
        (["--predictions=p", "--below=0.5", "--worst=2"], "--below=0.6 or --worst=3"),
        (["--predictions=p", "--below=0.5"], "--data_dir is missing"),
        (["--predictions=p", "--worst=1", "--data_dir=d"], "at least 2"),
        (["--predictions=p", "--below=1.5", "--data_dir=d"], "up to 1"),
        (["--predictions=p", "--second_predictions=q", "--min_mass=0"], "above 0"),
        (["--predictions=p", "--worst=2", "--data_dir=d", "--figure=auc"], "choose one of f1, recall, precision"),
        (["--predictions=nowhere", "--worst=2", "--data_dir=d"], "nowhere: no such file"),
    ],
)
def test_wrong_flags_are_one_line_on_stderr(flags, reason, capsys):
    assert specialise.main(["specialise", *flags]) == 1
    message = capsys.readouterr().err
    assert reason in message
    assert message.count("\n") == 1
