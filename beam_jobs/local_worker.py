"""Worker processes of the local runner: Beam's own, with one thread for each library and quiet logs, gone with their job.

    python -m beam_jobs.local_worker

`forked_workers` starts it once a job: it imports what steps need, then forks a worker for each line of standard input, the
JSON of the worker's environment variables. So a worker is there in hundredths of a second and not after seconds of imports.
When a worker has ended, a line of standard output says so, the JSON [worker's id, exit status]. The end of the input, or of
the job, ends all.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator

# Parallelism is Beam's. Libraries read these when they are loaded.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MODULES = ("apache_beam.runners.worker.sdk_worker_main", "beam_jobs.segment_fovs", "beam_jobs.write_shards")
_PR_SET_PDEATHSIG = 1
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_READ_BYTES = 1 << 16


def main() -> None:
    """Forks workers until the input ends."""
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    _die_with_parent()
    # Ctrl-C goes to all processes of a terminal; only the job has something to say about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints must not get into the talk with the job.
    reports = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    quieten_beam()
    for module in _MODULES:
        importlib.import_module(module)
    # The collector leaves these objects alone in the workers, whose memory stays the parent's so.
    gc.freeze()
    _serve(reports)


def _serve(reports: int) -> None:
    """Forks a worker for each line of standard input, and reports those that ended, until the input ends."""
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    # Python's handler does nothing: a signal is a byte in the pipe, which no `select` can miss.
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    workers: dict[int, str] = {}
    rest = b""
    while True:
        ready, _, _ = select.select([_STDIN, ended], [], [])
        if ended in ready:
            os.read(ended, _READ_BYTES)
            for worker_id, status in _ended_workers(workers):
                os.write(reports, f"{json.dumps([worker_id, status])}\n".encode())
        if _STDIN in ready:
            data = os.read(_STDIN, _READ_BYTES)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                environment = json.loads(line)
                process_id = os.fork()
                if process_id == 0:
                    _work(environment, not_its_own=(reports, ended, wake))
                workers[process_id] = environment["WORKER_ID"]


def _ended_workers(workers: dict[int, str]) -> Iterator[tuple[str, int]]:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield workers.pop(ended[0]), os.waitstatus_to_exitcode(ended[1])


def _work(environment: dict[str, str], *, not_its_own: Iterable[int]) -> None:
    """Is a worker, in a process just forked, until the runner ends it."""
    from apache_beam.runners.worker import sdk_worker, sdk_worker_main

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _die_with_parent()
    os.dup2(os.open(os.devnull, os.O_RDONLY), _STDIN)
    for number in not_its_own:
        os.close(number)
    os.environ.update(environment)
    # It prints the traceback of a failed step, which the job gets as well.
    sdk_worker.print = lambda *_, **__: None
    status = 1
    try:
        sdk_worker_main.main(sys.argv)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        # Not by way of the parent's loop, which the stack still holds.
        os._exit(status)


def quieten_beam() -> None:
    """Leaves out what Beam logs beside what it raises: its own chatter, and each error of a step, several times over."""
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    logging.getLogger("apache_beam.runners.worker").setLevel(logging.CRITICAL)
    logging.getLogger("apache_beam.runners.portability").setLevel(logging.CRITICAL)


def _die_with_parent() -> None:
    """Asks Linux to kill this process when its parent is killed: it would go on writing after the next job took the folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
