"""A worker process of the local runner: Beam's own, with one thread for each library and quiet logs.

Started by `runner.make_pipeline`: python -m beam_jobs.local_worker
"""

from __future__ import annotations

import logging
import os
import sys

# Parallelism is Beam's. Libraries read these when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    """Runs the worker until the runner ends it."""
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()
