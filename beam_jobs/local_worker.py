"""A worker process of the local runner: Beam's own, with one thread for each library and quiet logs, gone with its job.

Started by `runner.make_pipeline`: python -m beam_jobs.local_worker
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys

# Parallelism is Beam's. Libraries read these when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Runs the worker until the runner ends it."""
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    quieten_beam()
    die_with_parent()
    from apache_beam.runners.worker import sdk_worker, sdk_worker_main

    # It prints the traceback of a failed step, which the job gets as well.
    sdk_worker.print = lambda *_, **__: None
    sdk_worker_main.main(sys.argv)


def quieten_beam() -> None:
    """Leaves out what Beam logs beside what it raises: its own chatter, and each error of a step, several times over."""
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    logging.getLogger("apache_beam.runners.worker").setLevel(logging.CRITICAL)
    logging.getLogger("apache_beam.runners.portability").setLevel(logging.CRITICAL)


def die_with_parent() -> None:
    """Asks Linux to kill this process when its job is killed: it would go on writing after the next job took the folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
