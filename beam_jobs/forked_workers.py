"""Worker processes of Beam's local runner, forked by `local_worker`: Beam's own way imports everything for each of them."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable

from apache_beam.portability import python_urns
from apache_beam.portability.api import endpoints_pb2
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from google.protobuf import json_format, text_format

_SERVER = "the process that starts the workers"


class _ForkServer:
    """The process that forks the workers, and what is known of them.

    Attributes:
      on_death: called with what it was and its exit status when a worker, or the process itself, has ended otherwise than by
        its work's end.
    """

    on_death: Callable[[str, int], None]

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "beam_jobs.local_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # macOS ends forked processes that use its own libraries without this.
            env={**os.environ, "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES"},
        )
        self._ended: dict[str, threading.Event] = {}
        threading.Thread(target=self._watch, daemon=True).start()
        atexit.register(self._close)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def start_worker(self, environment: dict[str, str]) -> threading.Event:
        """Has a worker forked; the event is set when it has ended.

        Raises:
          RuntimeError: the process has ended; what it printed says why.
        """
        ended = self._ended[environment["WORKER_ID"]] = threading.Event()
        try:
            self._process.stdin.write(f"{json.dumps(environment)}\n")
            self._process.stdin.flush()
        except OSError as error:
            raise RuntimeError(f"{_SERVER} exited with status {self._process.wait()}") from error
        return ended

    def kill(self) -> None:
        """Ends it at once, and with it, on Linux, its workers."""
        self._process.kill()
        self._process.wait()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        # Only of a process that was waited for is it known what it and its workers took of time and memory.
        self._process.wait()

    def _watch(self) -> None:
        for line in self._process.stdout:
            worker_id, status = json.loads(line)
            self._ended.pop(worker_id).set()
            if status:
                self.on_death("a worker process", status)
        if self._ended:
            self.on_death(_SERVER, self._process.wait())
        while self._ended:
            self._ended.popitem()[1].set()


class _ForkedWorkerHandler(worker_handlers.GrpcWorkerHandler):
    server: _ForkServer | None = None

    def __init__(
        self,
        _command: bytes,
        state: worker_handlers.StateServicer,
        provision_info: object,
        grpc_server: worker_handlers.GrpcServer,
    ):
        super().__init__(state, provision_info, grpc_server)

    def start_worker(self) -> None:
        control = endpoints_pb2.ApiServiceDescriptor(url=self.control_address)
        options = self.provision_info.provision_info.pipeline_options
        # The job's variables may have changed since the server was started. No logging service: workers are quiet.
        self._ended = self.server.start_worker(
            {
                **os.environ,
                "WORKER_ID": self.worker_id,
                "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(control),
                "PIPELINE_OPTIONS": json_format.MessageToJson(options),
            }
        )

    def stop_worker(self) -> None:
        self._ended.wait()


def use_forked_workers(on_death: Callable[[str, int], None]) -> None:
    """Makes Beam fork the workers of its environment "subprocess" from now on.

    To be called in a thread that lives as long as the pipeline: the workers die with it.

    Args:
      on_death: called, in a thread of its own, with what was killed and its exit status: Beam would wait for it for ever.
    """
    if _ForkedWorkerHandler.server is None or not _ForkedWorkerHandler.server.is_alive():
        _ForkedWorkerHandler.server = _ForkServer()
    _ForkedWorkerHandler.server.on_death = on_death
    worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)(_ForkedWorkerHandler)


def kill_workers() -> None:
    """Ends all workers at once, in the middle of what they do."""
    if _ForkedWorkerHandler.server is not None:
        _ForkedWorkerHandler.server.kill()
