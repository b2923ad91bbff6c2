"""docs/RUNNERS.md tells the truth: each of its commands has flags that the job or Beam knows, with values that they take."""

import contextlib
import importlib.util
import io
import pathlib
import re
import shlex

import pytest
from absl import flags
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.runners.portability import local_job_service_main
from apache_beam.runners.worker import worker_pool_main

from beam_jobs import convert, runner  # convert has the flags of both jobs

_PAGE = pathlib.Path(__file__).parents[1] / "docs" / "RUNNERS.md"
_SERVERS = {
    local_job_service_main.__name__: local_job_service_main.run,
    worker_pool_main.__name__: worker_pool_main.main,
}


def commands():
    """Splits every command of the page into its module and its flags."""
    text = _PAGE.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line.startswith("python -m ")]
    found += [match for line in lines if line not in found for match in re.findall(r"`(python -m [^`]*)`", line)]
    return [tuple(shlex.split(command)[2:]) for command in found]


def test_page_has_commands_for_every_runner_that_it_names():
    used = {flag.removeprefix("--runner=") for command in commands() for flag in command if "--runner=" in flag}
    assert used == {"PortableRunner", "FlinkRunner", "SparkRunner", "DataflowRunner"}
    assert used <= set(StandardOptions.KNOWN_RUNNER_NAMES)


@pytest.mark.parametrize("command", [c for c in commands() if c[0].startswith("beam_jobs.")], ids=lambda c: c[0])
def test_flags_of_a_job_are_known_and_take_their_values(command):
    assert importlib.util.find_spec(command[0])
    own = flags.FLAGS.flags_by_module_dict()[convert.__name__]
    own += flags.FLAGS.get_key_flags_for_module(convert.__name__)
    by_name = {flag.name: flag for flag in own}
    beam_flags = []
    for argument in command[1:]:
        name, _, value = argument.removeprefix("--").partition("=")
        if name in by_name:
            by_name[name].parser.parse(value)
        else:
            beam_flags.append(argument)
    runner.check_beam_args(beam_flags)


@pytest.mark.parametrize("command", [c for c in commands() if c[0].startswith("apache_beam.")], ids=lambda c: c[0])
def test_flags_of_a_server_are_known(command):
    with contextlib.redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit):
        _SERVERS[command[0]]([*command[1:], "--help"])
    for argument in command[1:]:
        assert argument.split("=")[0] in re.findall(r"--\w+", shown.getvalue())


def test_page_has_no_gaps():
    """Names to be replaced are written in full (my-project, registry.example.org), figures are measured."""
    assert re.findall(r"\b(?:[A-Z]+(?:_[A-Z]+)+|TODO|TBD|FIXME|XXX+)\b|\?\?+", _PAGE.read_text()) == []


def test_other_commands_of_the_page_are_looked_at():
    assert {command[0].partition(".")[0] for command in commands()} == {"beam_jobs", "apache_beam"}
    assert len(commands()) >= 12


def test_tests_that_the_page_names_are_there():
    for name in re.findall(r"`(tests/[\w/]+\.py)`", _PAGE.read_text()):
        assert (_PAGE.parents[1] / name).exists(), name
