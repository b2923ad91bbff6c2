"""SIGKILL at random moments changes nothing: not a byte of the result, and no file is left over."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import signal
import time

import commands
import jobs
import numpy as np
import psutil
import pytest
import reliability

_NUM_CHAINS = 2
_MAX_KILLS_OF_A_RUN = 6
_SEED = 9
_PROMISE = "Stopped in the middle? The same command again, and the result is the one of a run that was never stopped"


def kill_often(arguments, folder, *, target, num_kills):
    """Kills in two chains at the same time, each with folders of its own; returns (kills, finished runs)."""
    (folder / "whole").mkdir()
    longest_s = jobs.time_work(arguments, folder / "whole", target=folder / "whole" / target)
    expected = jobs.contents(folder / "whole" / target)
    assert expected

    def run_chain(chain):
        rng = np.random.default_rng([_SEED, chain])
        left, num_runs = len(range(chain, num_kills, _NUM_CHAINS)), 0
        while left:
            here = folder / f"killed-{chain}-{num_runs}"
            here.mkdir()
            left -= jobs.kill_and_restart(
                arguments,
                here,
                target=here / target,
                rng=rng,
                longest_s=longest_s,
                max_kills=min(left, _MAX_KILLS_OF_A_RUN),
            )
            assert jobs.contents(here / target) == expected
            assert [path.name for path in here.iterdir()] == [target]
            shutil.rmtree(here)
            num_runs += 1
        return num_runs

    with concurrent.futures.ThreadPoolExecutor(_NUM_CHAINS) as pool:
        return sum(pool.map(run_chain, range(_NUM_CHAINS)))


def record(name, num_kills, num_runs, compared, *, condition=""):
    reliability.record(
        reliability.Trial(
            part="Killed",
            fault=f"SIGKILL to `{name}` and its workers at random moments of its work",
            times=f"{num_kills} kills in {num_runs} runs",
            outcome=f"{num_runs} of {num_runs} results equal to an undisturbed run's: {compared}; no stray file, no lock",
            promise=f"{_PROMISE}{condition}.",
            command=f"FAULT_KILLS={num_kills} python -m pytest -m slow tests/faults/test_kill.py",
        )
    )


def test_killed_segmenting_ends_with_the_same_cells(fovs, tmp_path, num_kills):
    num_runs = kill_often(commands.segment(fovs), tmp_path, target="cells", num_kills=num_kills)
    record("beam_jobs.segment", num_kills, num_runs, "every file of the cell store, times apart")


def test_killed_sharding_ends_with_the_same_bytes(cells, tmp_path, num_kills):
    num_runs = kill_often(commands.shard(cells), tmp_path, target="dataset", num_kills=num_kills)
    record("beam_jobs.shard", num_kills, num_runs, "shards, manifest, plan and report, byte for byte")


def test_killed_training_ends_with_the_same_weights(examples, tmp_path, num_kills):
    num_runs = kill_often(commands.train(examples), tmp_path, target="run", num_kills=num_kills)
    compared = "weights, optimizer and state of the last and the best checkpoint, history, pictures"
    record("trainer.train", num_kills, num_runs, compared, condition="; of training only with `--deterministic`")


@pytest.mark.parametrize("make_command", commands.TARGETS, ids=lambda function: function.__name__)
def test_killed_job_goes_on_from_what_is_finished(make_command, request, tmp_path):
    inputs = {commands.segment: "fovs", commands.shard: "cells", commands.train: "examples"}
    arguments = make_command(request.getfixturevalue(inputs[make_command]))
    target = tmp_path / commands.TARGETS[make_command]
    process = jobs.start(arguments, tmp_path)
    deadline = time.monotonic() + 120
    while not jobs.find_finished(target) and not list(target.glob("checkpoints/last.npz")):
        assert process.poll() is None, jobs.read_lines(tmp_path)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    jobs.kill(process)
    finished = jobs.identify(jobs.find_finished(target))
    status, lines = jobs.run(arguments, tmp_path)
    assert status == 0, lines
    if make_command is commands.train:
        step = jobs.read_first_step(lines)
        assert step > 0
        outcome = f"the same command goes on at step {step}"
    else:
        assert finished
        assert jobs.identify(finished) == finished
        outcome = f"the same command leaves the finished files ({len(finished)}) as they are, by inode and time"
    reliability.record(
        reliability.Trial(
            part="Killed",
            fault=f"SIGKILL to `{make_command.__name__}` when it has finished a part",
            times="1 kill",
            outcome=outcome,
            promise="What is finished is not done again.",
            command="python -m pytest -m slow tests/faults/test_kill.py -k finished",
        )
    )


def test_workers_end_with_a_job_that_is_killed_alone(fovs, cells, tmp_path):
    arguments = commands.segment(fovs, "--num_workers=2")
    process = jobs.start(arguments, tmp_path)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cells" / "fovs").rglob("*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert workers
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]
    assert jobs.run(arguments, tmp_path)[0] == 0
    assert jobs.contents(tmp_path / "cells") == jobs.contents(cells)
    reliability.record(
        reliability.Trial(
            part="Killed",
            fault="SIGKILL to the job alone, not to its two workers",
            times="1 kill",
            outcome=f"{len(workers)} workers gone within 10 s; the next run's cells equal to an undisturbed run's",
            promise="No worker of a dead job writes into a folder that another job has taken: on Linux, with the local runner.",
            command="python -m pytest -m slow tests/faults/test_kill.py -k alone",
        )
    )
