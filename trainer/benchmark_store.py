"""Suite of the input pipeline fed from an object store, against the same files on the local disk."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence

import fsspec.config

from hpa_proto import schema, storage
from hpa_proto.benchmarking import NotMeasuredError, Ratio, Work
from trainer.benchmark_data import SPLIT, Pictures
from trainer.benchmark_input import InputSuite
from trainer.benchmark_pipeline import pipeline_work
from trainer.source import Source, open_source

_START_SEC = 60.0
_BUCKET = "s3://benchmark"


class ObjectStoreSuite(InputSuite):
    """The whole pipeline from s3:// against the local disk."""

    name = "object_store"
    title = "the whole input pipeline of four channels from an object store"

    def __init__(self, pictures: Pictures, *, s3_url: str | None = None):
        """Says where.

        Args:
          pictures: to measure on.
          s3_url: folder in a store; a data set is written there and removed. None: moto's server on this machine.
        """
        super().__init__(pictures)
        self._s3_url = s3_url
        self._open = contextlib.ExitStack()

    def prepare(self, folder: str) -> None:
        """Copies the data set to the store."""
        url = self._s3_url
        if url is None:
            url = self._open.enter_context(_local_server())
            self.notes.append(
                "the store was moto's server on this machine, which takes a core of its own while it sends"
            )
        else:
            url = storage.join(url, f"benchmark-{uuid.uuid4().hex[:8]}")
            self._open.callback(storage.remove_folder, url)
        source = self.pictures.source
        self._works: dict[str, Work] = {
            "local disk": pipeline_work(source),
            "object store": pipeline_work(copy_dataset(source, url)),
        }

    def variants(self) -> dict[str, Work]:
        """Returns the pipeline from both places."""
        return self._works

    def ratios(self) -> Sequence[Ratio]:
        """Returns the store against the disk."""
        return (Ratio("object store against local disk", "object store", "local disk"),)

    def close(self) -> None:
        """Takes away what was written and ends the server."""
        self._open.close()


def copy_dataset(source: Source, url: str) -> Source:
    """Copies a data set's shards of one split and its manifest, and opens the copy."""
    names = [shard.name for shard in source.manifest.shards if shard.split == SPLIT]
    for name in (*names, schema.MANIFEST_NAME):
        storage.write_bytes(storage.join(url, name), storage.read_bytes(storage.join(source.data_dir, name)))
    return open_source(url, (SPLIT,), check="size")


@contextlib.contextmanager
def _local_server() -> Iterator[str]:
    """Runs moto's server and yields the URL of a bucket in it."""
    absent = [name for name in ("moto", "flask", "s3fs") if importlib.util.find_spec(name) is None]
    if absent:
        raise NotMeasuredError(f"{', '.join(absent)} not installed (pip install 'moto[server]' s3fs), and no --s3_url")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # No child of multiprocessing: its CPU time is not the pipeline's.
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    settings = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "none", "secret": "none"}
    before = fsspec.config.conf.get("s3")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        fsspec.config.conf["s3"] = settings
        try:
            _wait_until_it_answers(server, port)
            fsspec.filesystem("s3").mkdir(_BUCKET)
            yield _BUCKET
        finally:
            del fsspec.config.conf["s3"]
            if before is not None:
                fsspec.config.conf["s3"] = before
            server.kill()


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SEC
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise NotMeasuredError("moto's server did not start")
