"""How a job's pipeline is run: Beam's own flags, the short way to N processes, and a progress bar meanwhile."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import tqdm
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import Pipeline
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.transforms import environments

from beam_jobs import forked_workers
from hpa_proto import folder_lock
from hpa_proto.errors import STATUS_OF_CTRL_C, ConfigError, DatasetError

_ABORT_SECONDS = 3.0
# The progress bar counts for at most one part in this many of the time.
_COUNTING_REST = 20
_aborts: list[threading.Timer] = []
_pipeline_runs = threading.Event()
# The line of a step's error, as every runner passes it on: the exception's name, its text and Beam's note.
_STEP_ERROR = re.compile(
    r"^(?:RuntimeError: )?(?:hpa_proto\.errors\.)?(?P<kind>DatasetError|OSError|\w+(?:FoundError)|PermissionError)"
    r": (?P<text>.*) \[while running '[^']*'\]",
    re.MULTILINE,
)
_SYSTEM_ERROR = re.compile(r"\[Errno (?P<number>\d+)\] (?P<text>.*): '(?P<path>.*)'")


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
    forked_workers.use_forked_workers(on_death=_abort_unless_ending)
    local_runner = fn_runner.FnApiRunner(default_environment=environments.SubprocessSDKEnvironment(""))
    options = PipelineOptions([*beam_args, f"--direct_num_workers={num_workers}"])
    return Pipeline(runner=local_runner, options=options)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raises an expected error of a step as itself: a runner makes a RuntimeError with pages of tracebacks of it.

    Around the run of a pipeline. Only in its body does the death of a worker end the job, and Ctrl-C at once.

    Raises:
      OSError: a step could not read or write, for want of room, say.
      DatasetError: a step found a damaged file.
    """
    _pipeline_runs.set()
    try:
        with _stopped_by_ctrl_c():
            yield
    except (DatasetError, OSError, RuntimeError) as error:
        found = _STEP_ERROR.search(str(error)) or _STEP_ERROR.search(f"{type(error).__name__}: {error}")
        if found is None:
            raise
        if found["kind"] == "DatasetError":
            raise DatasetError(found["text"]) from error
        if parts := _SYSTEM_ERROR.fullmatch(found["text"]):
            raise OSError(int(parts["number"]), parts["text"], parts["path"]) from error
        raise OSError(found["text"]) from error
    finally:
        _pipeline_runs.clear()
        while _aborts:
            _aborts.pop().cancel()


@contextlib.contextmanager
def _stopped_by_ctrl_c() -> Iterator[None]:
    """Ends the job at Ctrl-C, and its workers with it: Beam makes an error of an interrupt, and pages of tracebacks."""
    before = signal.getsignal(signal.SIGINT)
    # A job in the background of a script is not to be stopped so; other threads are not asked.
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        # What Beam's threads make of their workers' end is of no interest now.
        threading.excepthook = lambda _: None
        forked_workers.kill_workers()
        folder_lock.release_held()
        os.write(sys.stderr.fileno(), b"\nstopped; run the same command to go on\n")
        os._exit(STATUS_OF_CTRL_C)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _abort_unless_ending(who: str, status: int) -> None:
    """Ends the job with a word when a worker process is killed, by the system for want of memory, say."""
    if _pipeline_runs.is_set():
        # A pipeline that is ending anyway ends its workers, some of them roughly; the job has its own last word then.
        _aborts.append(threading.Timer(_ABORT_SECONDS, _abort, [who, status]))
        _aborts[-1].daemon = True
        _aborts[-1].start()


def _abort(who: str, status: int) -> None:
    advice = " (killed, often for want of memory; try fewer --num_workers)" if status == -signal.SIGKILL else ""
    print(
        f"\nerror: {who} exited with status {status}{advice}; run the same command to go on",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


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
        seconds = 0.5 if to_terminal else 5.0
        while not stop.wait(seconds):
            begin = time.monotonic()
            update()
            # Counting takes longer the more is done: tenths of a second a hundred thousand files, minutes in a store.
            seconds = max(seconds, _COUNTING_REST * (time.monotonic() - begin))

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
