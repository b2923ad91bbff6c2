"""The commands that the harness torments, small enough to be run many times."""

from __future__ import annotations

import pathlib

import jobs


def segment(fovs: pathlib.Path, *flags: str) -> list[str]:
    """Segments the FOVs of a folder into cells/."""
    images = (f"--images={fovs}/images", f"--labels={fovs}/labels.csv")
    return jobs.command("beam_jobs.segment", *images, "--cells_dir=cells", "--pixel_size_um=0.3", *flags)


def shard(cells: pathlib.Path, *flags: str) -> list[str]:
    """Makes a data set of ten shards of a cell store in dataset/."""
    plan = ("--label_scope=all", "--splits=train=3,validation=1", "--cells_per_shard=8", "--image_size_px=32")
    return jobs.command("beam_jobs.shard", f"--cells_dir={cells}", "--data_dir=dataset", *plan, *flags)


def train(examples: pathlib.Path, *flags: str) -> list[str]:
    """Trains in run/ with all that has a state: BatchNorm, dropout, augmentation, averages, checkpoints within epochs."""
    steps = ("--batch_size=10", "--epochs=3", "--steps_per_epoch=7", "--checkpoint_every_steps=2", "--ema_momentum=0.9")
    run = (f"--data_dir={examples}", "--runs_dir=.", "--name=run", "--model=tinynorm", "--deterministic")
    return jobs.command(jobs.TRAIN, *run, *steps, "--notensorboard", *flags)


# What each of them writes to and locks.
TARGETS = {segment: "cells", shard: "dataset", train: "run"}
