"""The jobs do on Beam's portable API, with job service and workers in other processes, what they do on the local runner."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import compare_trees
import pytest
import reliability

import small_fovs

# Worker pools start `python`.
_ENVIRONMENT = {
    **os.environ,
    "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    "OMP_NUM_THREADS": "1",
}
_START_SEC = 90


@contextlib.contextmanager
def server(log, *command):
    """Runs `python -m command...` until the block ends; its words go to a file."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=output, stderr=subprocess.STDOUT, env=_ENVIRONMENT
        )
        try:
            yield process
        finally:
            # As Ctrl-C: the pool then ends the workers that it has started.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(is_ready, process, log):
    until = time.monotonic() + _START_SEC
    while not is_ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, f"not ready after {_START_SEC} s: {log.read_text()}"
        time.sleep(0.1)


def answers(port):
    try:
        socket.create_connection(("localhost", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def job_endpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job_service")
    port, log = folder / "port", folder / "log"
    module = "apache_beam.runners.portability.local_job_service_main"
    with server(log, module, f"--port_file={port}", f"--staging_dir={folder}/staging") as process:
        wait_until(lambda: port.exists() and port.read_text().strip(), process, log)
        yield f"localhost:{port.read_text().strip()}"


@pytest.fixture(scope="module")
def worker_pool(tmp_path_factory):
    log = tmp_path_factory.mktemp("worker_pool") / "log"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    module = "apache_beam.runners.worker.worker_pool_main"
    with server(log, module, f"--service_port={port}") as process:
        wait_until(lambda: answers(port), process, log)
        yield f"localhost:{port}"


@pytest.fixture(scope="module")
def fovs(tmp_path_factory):
    """Eight FOVs, one of them damaged."""
    folder = small_fovs.write_set(tmp_path_factory.mktemp("fovs"), num_fovs=8)
    (folder / "images" / "fov-5_green.png").write_bytes(b"")
    return folder


def run_job(module, *flags):
    return subprocess.run(
        [sys.executable, "-m", module, *flags], capture_output=True, text=True, env=_ENVIRONMENT, timeout=300
    )


def run_shard(folder, *beam_flags):
    flags = ("--label_scope=all", "--splits=train=3,test=1", "--shards=train=3", "--image_size_px=32")
    return run_job(
        "beam_jobs.shard", f"--cells_dir={folder}/cells", f"--data_dir={folder}/dataset", *flags, *beam_flags
    )


def run_jobs(fovs, folder, *beam_flags):
    """Runs both commands into a folder."""
    segmented = run_job(
        "beam_jobs.segment",
        f"--images={fovs}/images",
        f"--labels={fovs}/labels.csv",
        f"--cells_dir={folder}/cells",
        "--segmenter=masks",
        f"--masks_dir={fovs}/masks",
        "--pixel_size_um=0.5",
        "--max_dead_fraction=0.2",
        *beam_flags,
    )
    assert segmented.returncode == 0, segmented.stderr
    sharded = run_shard(folder, *beam_flags)
    assert sharded.returncode == 0, sharded.stderr
    return folder


@pytest.fixture(scope="module")
def local(fovs, tmp_path_factory):
    return run_jobs(fovs, tmp_path_factory.mktemp("local"))


def record(fault, outcome):
    reliability.record(
        reliability.Trial(
            part="Other runners",
            fault=fault,
            times="1 run of each job",
            outcome=outcome,
            promise="Where the jobs run changes nothing of what they write.",
            command="python -m pytest tests/faults/test_portable_runner.py",
        )
    )


def assert_same_bytes(local, folder, *, workers):
    comparison = compare_trees.compare(local, folder)
    assert not comparison.different, compare_trees.describe(comparison)
    # Eight notes and the table of FOVs hold times, the manifest the command line; nothing else may differ.
    differing = {name for names in comparison.allowed.values() for name in names}
    assert {name for name in differing if not name.startswith("cells/fovs")} <= {"dataset/manifest.json"}
    assert len(list((folder / "dataset").glob("*.tfrecord"))) == 4
    assert comparison.num_equal + len(differing) == len([path for path in folder.rglob("*") if path.is_file()])
    record(
        f"`segment` and `shard` on `--runner=PortableRunner`, the job service in a second process, {workers}",
        f"{comparison.num_equal} files equal to the local runner's byte for byte, among them all shards; {len(differing)} "
        "more but for measured times and the command line",
    )


def test_workers_in_the_jobs_own_process_write_the_same_bytes(fovs, local, job_endpoint, tmp_path):
    flags = ("--runner=PortableRunner", f"--job_endpoint={job_endpoint}", "--environment_type=LOOPBACK")
    assert_same_bytes(local, run_jobs(fovs, tmp_path, *flags), workers="workers in the job's own (LOOPBACK)")


def test_workers_of_a_pool_in_a_third_process_write_the_same_bytes(fovs, local, job_endpoint, worker_pool, tmp_path):
    flags = (
        "--runner=PortableRunner",
        f"--job_endpoint={job_endpoint}",
        "--environment_type=EXTERNAL",
        f"--environment_config={worker_pool}",
    )
    assert_same_bytes(local, run_jobs(fovs, tmp_path, *flags), workers="a pool of workers in a third (EXTERNAL)")


def test_error_of_a_worker_is_the_jobs_last_line(local, job_endpoint, tmp_path):
    shutil.copytree(local / "cells", tmp_path / "cells")
    (file,) = (tmp_path / "cells").rglob("fov-2.tfrecord")
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(bytes(data))
    flags = ("--runner=PortableRunner", f"--job_endpoint={job_endpoint}", "--environment_type=LOOPBACK")
    done = run_shard(tmp_path, *flags)
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    assert last == f"error: {file}: corrupt record at byte 0 (CRC32C does not match); delete the file and run " + (
        "`python -m beam_jobs.segment` again"
    )
    assert not (tmp_path / "dataset" / "manifest.json").exists()
    record(
        "A damaged cell file, met by a worker of `--runner=PortableRunner`",
        f"status 1; last line {reliability.quote(f'error: {file.name}{last.partition(file.name)[2]}')}; no manifest",
    )
