"""Promises of hpa_proto.errors and of both halves' commands: one line, the flag that is wrong, what is wanted."""

import errno
import os
import subprocess
import sys

import pytest

from hpa_proto.errors import ConfigError, explain, reason_of
from trainer import evaluate, loop, predict, score, train

GIVEN = (
    ("labels", "in/labels.csv", "CSV with labels."),
    ("images", "in/images/", "Folder of FOVs."),
    ("seed", 3, "Seed."),
)


def missing(path):
    return FileNotFoundError(2, "No such file or directory", path)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (missing("in/labels.csv"), "--labels=in/labels.csv: No such file or directory; wanted: CSV with labels"),
        (
            missing("in/images/a.png"),
            "--images=in/images/: in/images/a.png: No such file or directory; wanted: Folder of FOVs",
        ),
        (missing("in/images2"), "in/images2: No such file or directory"),
        (PermissionError(13, "Permission denied", "in/labels.csv"), "--labels=in/labels.csv: Permission denied"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (ConfigError("two\n  lines"), "two lines"),
    ],
)
def test_error_is_one_line_that_names_the_flag(error, line):
    assert explain(error, GIVEN) == line


def test_reason_has_no_number_and_no_path():
    assert reason_of(missing("x")) == "No such file or directory"


@pytest.mark.parametrize(
    ("command", "flags", "line"),
    [
        (
            score,
            ["--submission=none.csv", "--truth=none.csv"],
            "--submission=none.csv: No such file or directory; wanted: CSV to score",
        ),
        (score, ["--submission=none.csv", "--data_dir=none"], "none: no manifest.json to be read (No such file"),
        (
            predict,
            ["--run_dir=none", "--data_dir=none"],
            "none is no run (no config.json in it); give the folder of one",
        ),
        (evaluate, ["--run_dir=none", "--data_dir=none"], "none: no manifest.json to be read (No such file"),
        (evaluate, ["--predictions=none.parquet"], "none.parquet: no such file; write it with"),
    ],
)
def test_missing_input_of_the_trainer_is_told_in_words(tmp_path, monkeypatch, capsys, command, flags, line):
    monkeypatch.chdir(tmp_path)
    assert command.main(["x", *flags]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}")
    assert len(said.splitlines()) == 1
    assert "Errno" not in said


def test_missing_input_of_a_job_is_told_in_words(tmp_path):
    flags = ["--a=none", f"--b={tmp_path}"]
    ended = subprocess.run(
        [sys.executable, "-m", "beam_jobs.compare_masks", *flags], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == "error: none: no such folder; give one of masks, or a cell store\n"


def test_full_disk_is_told_by_training_in_words(tmp_path, monkeypatch, capsys):
    def fill(config):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{config.run_dir}/last.npz")

    monkeypatch.setattr(loop, "run", fill)
    assert train.main(["train", "--data_dir=set", f"--runs_dir={tmp_path}", "--name=first"]) == 1
    words = "No space left on device; make room and run the same command again"
    assert capsys.readouterr().err == f"error: {tmp_path}/first/last.npz: {words}\n"
