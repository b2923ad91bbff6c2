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
    name = commands.TARGETS[make_command]
    alone, at_work, stopped, killed = (tmp_path / name for name in ("alone", "at-work", "stopped", "killed"))
    for folder in (alone, at_work, stopped, killed):
        folder.mkdir()
    status, lines = jobs.run(arguments, alone)
    assert status == 0, lines
    expected = jobs.contents(alone / name)

    # Both take the same time to start: the one finds the other just at work.
    folders = (at_work, _second_name(at_work))
    both = [jobs.start(arguments, folder) for folder in folders]
    ends = [jobs.finish(process, folder) for process, folder in zip(both, folders, strict=True)]
    assert sorted(status for status, _ in ends) == [0, 1], ends
    first = next(process for process in both if process.returncode == 0)
    _check_refusal(*next(end for end in ends if end[0]), first=first)
    assert jobs.contents(at_work / name) == expected

    first = jobs.start(arguments, stopped)
    assert jobs.wait_for_lock(first, stopped / name), jobs.read_lines(stopped)
    # Stopped, but not dead: it would write again.
    first.send_signal(signal.SIGSTOP)
    _check_refusal(*jobs.run(arguments, _second_name(stopped)), first=first)
    first.send_signal(signal.SIGCONT)
    status, lines = jobs.finish(first, stopped)
    assert status == 0, lines
    assert jobs.contents(stopped / name) == expected

    first = jobs.start(arguments, killed)
    assert jobs.wait_for_lock(first, killed / name)
    jobs.kill(first)
    assert (killed / name / storage.LOCK_NAME).exists()
    status, lines = jobs.run(arguments, killed)
    assert status == 0, lines
    assert jobs.contents(killed / name) == expected
    reliability.record(
        reliability.Trial(
            part="Two jobs",
            fault=f"`{make_command.__name__}` started twice on one output folder; the first at work, stopped, or killed",
            times="3 pairs",
            outcome="second of a living one refused with one line (process, host, since when, command), first's result that "
            "of an undisturbed run; second of a killed one takes over and ends with the same bytes",
            promise="Two jobs never write into one folder, and a dead one blocks nobody.",
            command="python -m pytest -m slow tests/faults/test_two_jobs.py",
        )
    )


def _second_name(folder):
    """Gives a folder another name, so that the output of a second job goes to a file of its own."""
    second = folder.with_name(f"{folder.name}-second")
    second.symlink_to(folder)
    return second


def _check_refusal(status, lines, *, first):
    errors = [line for line in lines if line.startswith("error")]
    assert status == 1
    assert errors == lines[-1:]
    assert f"another job is at work there (process {first.pid} on {socket.gethostname()}, since 2" in errors[0]
