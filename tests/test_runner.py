"""Promises of beam_jobs.runner and beam_jobs.command."""

import errno
import re
import time

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import fn_runner

from beam_jobs import command, runner
from hpa_proto.errors import ConfigError, DatasetError


@pytest.mark.parametrize(
    "args",
    [[], ["--runner=FlinkRunner"], ["--direct_num_workers=3"], ["--flink_master=localhost:8081"], ["--region=x"]],
)
def test_flags_of_beam_are_known(args):
    runner.check_beam_args(args)


@pytest.mark.parametrize("args", [["--imagse=x"], ["stray"], ["--num_wokers=2"], ["--direct_num_workers=many"]])
def test_mistyped_flag_is_an_error_that_names_it(args):
    with pytest.raises(ConfigError, match=re.escape(args[0])):
        runner.check_beam_args(args)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_default_runner_is_the_local_one(num_workers):
    assert isinstance(runner.make_pipeline([], num_workers=num_workers).runner, fn_runner.FnApiRunner)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "cells/x.tfrecord"),
        FileNotFoundError(errno.ENOENT, "No such file", "cells/x"),
        OSError("s3://bucket/x: the store is away"),
        DatasetError("cells/x: corrupt record at byte 7"),
    ],
)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_expected_error_of_a_step_comes_out_as_itself(error, num_workers):
    def fail(_, error=error):
        raise error

    pipeline = runner.make_pipeline([], num_workers=num_workers)
    with pytest.raises(type(error)) as caught, runner.plain_errors(), pipeline:
        _ = pipeline | beam.Create([1]) | beam.Reshuffle() | beam.Map(fail)
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "filename", None) == getattr(error, "filename", None)


def test_what_steps_print_does_not_disturb_the_talk_with_their_workers():
    for _ in range(2):
        with runner.make_pipeline([], num_workers=2) as pipeline:
            _ = (
                pipeline
                | beam.Create([1, 2, 3])
                | beam.Reshuffle()
                | beam.Map(lambda _: print('["worker_0", 3]', flush=True))
            )


def test_bug_in_a_step_is_no_expected_error():
    pipeline = runner.make_pipeline([], num_workers=1)
    with pytest.raises(Exception, match="division by zero") as caught, runner.plain_errors(), pipeline:
        _ = pipeline | beam.Create([0]) | beam.Map(lambda number: 1 / number)
    assert not isinstance(caught.value, OSError | DatasetError)


def test_progress_bar_counts_up_to_the_total(capsys):
    done = []
    with runner.progress("work", 3, count_done=lambda: 5 + len(done), unit="thing"):
        done += [1, 2, 3]
        time.sleep(0)
    assert "work: 100%" in capsys.readouterr().err


def test_pairs_are_read():
    assert command.parse_pairs("splits", ["train=12", " test=0.5"]) == (("train", 12), ("test", 0.5))


@pytest.mark.parametrize("text", ["train", "train=", "train=x", "=", "train:12"])
def test_wrong_pair_is_an_error(text):
    with pytest.raises(ConfigError, match="--splits"):
        command.parse_pairs("splits", [text])
