"""Training holds the same memory and the same number of open files after two thousand steps as after two hundred."""

import csv
import os
import statistics
import subprocess
import sys
import time

import psutil
import reliability

import tiny_train
import trainer_data

_STEPS_PER_EPOCH = 100
_EPOCHS = 20
_SAMPLE_SEC = 0.2


def read_step(run_dir):
    """Returns the last step that history.csv tells of."""
    try:
        with open(run_dir / "history.csv", newline="") as file:
            return max((int(row["step"]) for row in csv.DictReader(file)), default=0)
    except FileNotFoundError:
        return 0


def watch(process, run_dir):
    """Samples (step, resident bytes, open files) until the process ends."""
    samples = []
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            samples.append((read_step(run_dir), watched.memory_info().rss, watched.num_fds()))
        except psutil.NoSuchProcess:
            break
        time.sleep(_SAMPLE_SEC)
    # The last ones see the process on its way out.
    return [sample for sample in samples[:-2] if sample[1]]


def test_memory_and_open_files_stay_as_they_are(tmp_path):
    folder = trainer_data.write_dataset(tmp_path / "set", size_px=32, examples_per_class=32)
    command = [
        sys.executable,
        tiny_train.__file__,
        f"--data_dir={folder}",
        f"--runs_dir={tmp_path}",
        "--name=run",
        "--model=tinynorm",
        "--batch_size=4",
        f"--epochs={_EPOCHS}",
        f"--steps_per_epoch={_STEPS_PER_EPOCH}",
    ]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ})
        samples = watch(process, tmp_path / "run")
    assert process.returncode == 0, log.read_text()
    assert read_step(tmp_path / "run") == _EPOCHS * _STEPS_PER_EPOCH
    early = [sample for sample in samples if 200 <= sample[0] < 400]
    late = [sample for sample in samples if sample[0] >= (_EPOCHS - 2) * _STEPS_PER_EPOCH]
    assert min(len(early), len(late)) >= 3
    (_, early_bytes, early_files), (_, late_bytes, late_files) = (
        [statistics.median(values) for values in zip(*part, strict=True)] for part in (early, late)
    )
    assert late_bytes <= 1.05 * early_bytes
    # Fewer is no growth: files of the start may be closed since.
    assert late_files <= early_files
    reliability.record(
        reliability.Trial(
            part="Long training",
            fault=f"{_EPOCHS * _STEPS_PER_EPOCH:,} steps of a tiny model in {_EPOCHS} epochs with validation and checkpoints",
            times=f"1 run, {len(samples)} samples",
            outcome=f"steps 200 to 400: {early_bytes / 2**20:.0f} MiB, {early_files:.0f} open files; last "
            f"{2 * _STEPS_PER_EPOCH} steps: {late_bytes / 2**20:.0f} MiB ({late_bytes / early_bytes - 1:+.1%}), "
            f"{late_files:.0f} open files",
            promise="Training for a week takes the memory of training for a minute.",
            command="python -m pytest tests/faults/test_long_training.py",
        )
    )
