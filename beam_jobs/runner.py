"""How a job's pipeline is run: Beam's own flags, the short way to N processes, and a progress bar meanwhile."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import tqdm
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import Pipeline
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.transforms import environments

from hpa_proto.errors import ConfigError


def check_beam_args(beam_args: Sequence[str]) -> None:
    """Refuses flags that neither the job nor Beam knows: Beam itself would only warn and go on.

    Raises:
      ConfigError: names the flags.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, conflict_handler="resolve", add_help=False)
    for options in _subclasses(PipelineOptions):
        if "_add_argparse_args" in vars(options):
            options._add_argparse_args(parser)
    try:
        _, unknown = parser.parse_known_args(list(beam_args))
    except SystemExit as error:
        raise ConfigError(f"Beam does not accept these flags: {' '.join(beam_args)}") from error
    if unknown:
        raise ConfigError(f"unknown flag {' '.join(unknown)}: neither this job's (see --help) nor Beam's")


def make_pipeline(beam_args: Sequence[str], *, num_workers: int) -> Pipeline:
    """Makes a pipeline; run it with `with make_pipeline(...) as pipeline:`.

    Args:
      beam_args: Beam's own flags. Without --runner, Beam's FnApiRunner on this machine.
      num_workers: processes of the local runner; other runners have flags of their own for that.
    """
    if any(arg.split("=")[0] == "--runner" for arg in beam_args):
        return Pipeline(options=PipelineOptions(list(beam_args)))
    # The class and not the name "DirectRunner": that one first tries to download another runner.
    if num_workers == 1:
        return Pipeline(runner=fn_runner.FnApiRunner(), options=PipelineOptions(list(beam_args)))
    _abort_when_a_worker_dies()
    command = f"{shlex.quote(sys.executable)} -m beam_jobs.local_worker"
    local_runner = fn_runner.FnApiRunner(
        default_environment=environments.SubprocessSDKEnvironment.from_command_string(command_string=command)
    )
    options = PipelineOptions([*beam_args, f"--direct_num_workers={num_workers}"])
    return Pipeline(runner=local_runner, options=options)


def _abort_when_a_worker_dies() -> None:
    """Ends the job with a word when a worker process is killed, by the system for want of memory, say.

    Beam notices it in a thread of its own, raises there, and the pipeline waits for ever.
    """
    default_hook = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not str(arguments.exc_value).startswith("Worker subprocess exited"):
            default_hook(arguments)
            return
        print(
            f"\nerror: {arguments.exc_value} (137 or -9: killed, often for want of memory; try fewer --num_workers); "
            "run the same command to go on",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    threading.excepthook = hook


@contextlib.contextmanager
def progress(label: str, total: int, *, count_done: Callable[[], int], unit: str) -> Iterator[None]:
    """Shows a progress bar with rate and time left while its body runs.

    The bar counts finished files, not Beam's elements, so it tells the truth on any runner and after a restart.

    Args:
      label: what is going on.
      total: things to do.
      count_done: how many are done; called now and then from another thread.
      unit: name of one thing.
    """
    to_terminal = sys.stderr.isatty()
    start = count_done()
    # Where lines cannot be overwritten (a log), one line in 30 s is enough.
    bar = tqdm.tqdm(
        total=total,
        desc=label,
        unit=f" {unit}",
        dynamic_ncols=True,
        mininterval=0.2 if to_terminal else 30,
        smoothing=0.1,
    )
    stop = threading.Event()

    def update() -> None:
        bar.update(max(0, min(total, count_done() - start) - bar.n))

    def watch() -> None:
        while not stop.wait(0.5 if to_terminal else 5):
            update()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        update()
        bar.close()


def _subclasses(cls: type) -> list[type]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _subclasses(sub))]
