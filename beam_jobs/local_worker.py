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
import signal
import sys
import traceback

# Parallelism is Beam's. Libraries read these when they are loaded.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MODULES = ("apache_beam.runners.worker.sdk_worker_main", "beam_jobs.segment_fovs", "beam_jobs.write_shards")
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Forks workers until the input ends."""
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    _die_with_parent()
    # Ctrl-C goes to all processes of a terminal; only the job has something to say about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quieten_beam()
    for module in _MODULES:
        importlib.import_module(module)
    # The collector leaves these objects alone in the workers, whose memory stays the parent's so.
    gc.freeze()
    workers: dict[int, str] = {}
    signal.signal(signal.SIGCHLD, lambda *_: _report_ended(workers))
    for line in sys.stdin:
        environment = json.loads(line)
        # One that ends at once must be known when its end is reported.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        process_id = os.fork()
        if process_id == 0:
            _work(environment)
        workers[process_id] = environment["WORKER_ID"]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _report_ended(workers: dict[int, str]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            print(json.dumps([workers.pop(ended[0]), os.waitstatus_to_exitcode(ended[1])]), flush=True)


def _work(environment: dict[str, str]) -> None:
    """Is a worker, in a process just forked, until the runner ends it."""
    from apache_beam.runners.worker import sdk_worker, sdk_worker_main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    _die_with_parent()
    # Standard input and output of the parent are its talk with the job.
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
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
