"""A full disk stops a job with one line; what is whole stays; with room again the job goes on to the same bytes."""

from __future__ import annotations

import re

import commands
import disks
import jobs
import pytest
import reliability

# Share of what the result takes; training's largest file is written beside its predecessor.
_SHARES = {commands.segment: (0.3, 0.8), commands.shard: (0.4, 0.9), commands.train: (0.3, 0.75)}


@pytest.mark.parametrize("make_command", commands.TARGETS, ids=lambda function: function.__name__)
def test_full_disk_stops_the_job_and_room_lets_it_go_on(make_command, request, tmp_path):
    inputs = {commands.segment: "fovs", commands.shard: "cells", commands.train: "examples"}
    arguments = make_command(request.getfixturevalue(inputs[make_command]))
    name = commands.TARGETS[make_command]
    whole = tmp_path / "whole"
    whole.mkdir()
    status, lines = jobs.run(arguments, whole)
    assert status == 0, lines
    expected = jobs.contents(whole / name)
    num_bytes = sum(path.stat().st_size for path in (whole / name).rglob("*"))
    said, kept = [], []
    for share in _SHARES[make_command]:
        with disks.small_disk(tmp_path / f"disk-{share}", num_bytes=int(share * num_bytes)) as disk:
            status, lines = jobs.run(arguments, disk.path, **disk.variables())
            assert status == 1, lines
            errors = [line for line in lines if line.startswith("error: ") or "Traceback" in line]
            words = rf"error: .*{name}/.*: No space left on device; make room and run the same command again"
            assert len(errors) == 1, lines
            assert re.fullmatch(words, errors[0]), errors
            left = jobs.contents(disk.path / name)
            assert not [path for path in left if ".tmp-" in path or path.endswith(".lock")]
            assert all(expected[path] == digest for path, digest in left.items() if path.endswith(".tfrecord"))
            finished = jobs.identify(jobs.find_finished(disk.path / name))
            disk.make_room()
            status, lines = jobs.run(arguments, disk.path, **disk.variables())
            assert status == 0, lines
            assert jobs.contents(disk.path / name) == expected
            assert jobs.identify(finished) == finished
            said.append(errors[0])
            kept.append(jobs.read_first_step(lines) if make_command is commands.train else len(finished))
    # The smaller disk may be full before anything is finished.
    assert kept[-1] > 0
    kept_text = " and ".join(map(str, kept))
    goes_on = (
        f"goes on at step {kept_text}"
        if make_command is commands.train
        else f"leaves what was finished ({kept_text} files) as it is"
    )
    reliability.record(
        reliability.Trial(
            part="Full disk",
            fault=f"`{make_command.__name__}` on a disk that holds a part of its result ({disk.kind})",
            times=" and ".join(f"{share:.0%}" for share in _SHARES[make_command]),
            outcome=f"status 1 and one line, as {reliability.quote(said[0])}; no half file; with room the same command "
            f"{goes_on} and ends with the bytes of an undisturbed run",
            promise="A full disk costs the time until there is room, nothing else.",
            command="python -m pytest -m slow tests/faults/test_full_disk.py",
        )
    )
