"""Two jobs on one output folder: the second is refused; the lock of a dead one is taken over."""

from __future__ import annotations

import signal
import socket

import commands
import jobs
import pytest
import reliability

from hpa_proto import storage


@pytest.mark.parametrize("make_command", commands.TARGETS, ids=lambda function: function.__name__)
def test_second_job_is_refused_and_a_dead_ones_lock_taken_over(make_command, request, tmp_path):
    inputs = {commands.segment: "fovs", commands.shard: "cells", commands.train: "examples"}
    arguments = make_command(request.getfixturevalue(inputs[make_command]))
    here, target = tmp_path / "here", tmp_path / "here" / commands.TARGETS[make_command]
    here.mkdir()
    first = jobs.start(arguments, here)
    assert jobs.wait_for_lock(first, target), jobs.read_lines(here)
    # Stopped, but not dead: it would write again.
    first.send_signal(signal.SIGSTOP)
    beside = tmp_path / "beside"
    beside.symlink_to(here)
    status, lines = jobs.run(arguments, beside)
    errors = [line for line in lines if line.startswith("error")]
    assert status == 1
    assert errors == lines[-1:]
    assert f"another job is at work there (process {first.pid} on {socket.gethostname()}, since 2" in errors[0]
    first.send_signal(signal.SIGCONT)
    status, lines = jobs.finish(first, here)
    assert status == 0, lines
    assert not (target / storage.LOCK_NAME).exists()
    expected = jobs.contents(target)

    there = tmp_path / "there"
    there.mkdir()
    first = jobs.start(arguments, there)
    assert jobs.wait_for_lock(first, there / target.name)
    jobs.kill(first)
    assert (there / target.name / storage.LOCK_NAME).exists()
    status, lines = jobs.run(arguments, there)
    assert status == 0, lines
    assert jobs.contents(there / target.name) == expected
    reliability.record(
        reliability.Trial(
            part="Two jobs",
            fault=f"`{make_command.__name__}` started twice on one output folder; the first at work, stopped, or killed",
            times="2 pairs",
            outcome="second of a living one refused with one line (process, host, since when, command), first's result "
            "unharmed; second of a killed one takes over and ends with the same bytes",
            promise="Two jobs never write into one folder, and a dead one blocks nobody.",
            command="python -m pytest -m slow tests/faults/test_two_jobs.py",
        )
    )
