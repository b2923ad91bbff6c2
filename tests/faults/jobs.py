"""Real commands as processes: started, killed at a given moment, started again, and what they left compared."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import h5py
import numpy as np
import pandas as pd

from hpa_proto import storage

TRAIN = str(pathlib.Path(__file__).parents[1] / "tiny_train.py")
_TIMEOUT_S = 300
# Times are all that may differ between two runs of one command.
_FOV_TIMES = ("read_msec", "segment_msec", "store_msec")
_EPOCH_TIMES = ("images_per_second", "input_wait_share")


def command(module: str, *flags: str) -> list[str]:
    """Returns `python -m module flags`; a module that is a path is run as a file."""
    return [sys.executable, *([module] if module.endswith(".py") else ["-m", module]), *flags]


def start(arguments: Sequence[str], folder: pathlib.Path, **variables: str) -> subprocess.Popen:
    """Starts a command in a folder and in a process group of its own; its output goes to a file beside the folder."""
    log = folder.with_name(f"{folder.name}.log")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    with open(log, "w", encoding="utf-8") as file:
        return subprocess.Popen(
            arguments, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def finish(process: subprocess.Popen, folder: pathlib.Path) -> tuple[int, list[str]]:
    """Waits for a command; returns its status and the lines of its output, progress bars apart."""
    try:
        status = process.wait(_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    return status, read_lines(folder)


def read_lines(folder: pathlib.Path) -> list[str]:
    """Returns the lines of the output of the command of `start`."""
    text = folder.with_name(f"{folder.name}.log").read_text(encoding="utf-8")
    return [line for line in text.replace("\r", "\n").splitlines() if line.strip() and "it/s]" not in line]


def run(arguments: Sequence[str], folder: pathlib.Path, **variables: str) -> tuple[int, list[str]]:
    """Runs a command to its end, as `start` and `finish`."""
    return finish(start(arguments, folder, **variables), folder)


def kill(process: subprocess.Popen) -> None:
    """Sends SIGKILL to a command and all its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for_lock(process: subprocess.Popen, target: pathlib.Path) -> bool:
    """Waits until a command has the lock of its folder; False where it ended before."""
    deadline = time.monotonic() + _TIMEOUT_S
    while process.poll() is None:
        assert time.monotonic() < deadline, "a command neither took its lock nor ended"
        try:
            if json.loads((target / storage.LOCK_NAME).read_text())["pid"] == process.pid:
                return True
        except (FileNotFoundError, ValueError):
            pass
        time.sleep(0.01)
    return False


def kill_and_restart(
    arguments: Sequence[str],
    folder: pathlib.Path,
    *,
    target: pathlib.Path,
    rng: np.random.Generator,
    longest_s: float,
    max_kills: int,
) -> int:
    """Runs a command, kills it at a random moment after it began to work, and so on until it is done.

    Args:
      arguments: the command.
      folder: where it runs.
      target: the folder that it writes to and locks.
      rng: draws the moments, from 0 to `longest_s` after the command took its lock.
      longest_s: about the time from there to the end of an undisturbed run.
      max_kills: after so many it is left alone.

    Returns:
      The number of kills; less than `max_kills` where the command was quicker.
    """
    for num_kills in range(max_kills):
        process = start(arguments, folder)
        if wait_for_lock(process, target):
            try:
                process.wait(rng.uniform(0, longest_s))
            except subprocess.TimeoutExpired:
                kill(process)
                continue
        status, lines = finish(process, folder)
        assert status == 0, lines
        return num_kills
    status, lines = run(arguments, folder)
    assert status == 0, lines
    return max_kills


def time_work(arguments: Sequence[str], folder: pathlib.Path, *, target: pathlib.Path) -> float:
    """Runs a command undisturbed; returns the time from its lock to its end, seconds."""
    process = start(arguments, folder)
    assert wait_for_lock(process, target), read_lines(folder)
    begin = time.monotonic()
    status, lines = finish(process, folder)
    assert status == 0, lines
    return time.monotonic() - begin


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Digests every file below a folder, strays among them, by name; the times in it left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(_timeless(path)).hexdigest() for path in files}


def _timeless(path: pathlib.Path) -> bytes:
    if path.name == "fovs.parquet":
        return pd.read_parquet(path).drop(columns=list(_FOV_TIMES)).to_json().encode()
    if path.suffix == ".json" and path.parent.parent.name == "fovs":
        note = json.loads(path.read_text())
        note["fov"] = {name: value for name, value in note["fov"].items() if name not in _FOV_TIMES}
        return json.dumps(note).encode()
    if path.name == "history.csv":
        with path.open(newline="") as file:
            return json.dumps([_without_times(row) for row in csv.DictReader(file)]).encode()
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            state = json.loads(arrays["state"].tobytes())
            state["history"] = [_without_times(row) for row in state["history"]]
            weights = b"".join(arrays[name].tobytes() for name in sorted(arrays.files) if name != "state")
            return json.dumps(state, sort_keys=True).encode() + weights
    if path.suffix == ".h5":
        parts = []
        with h5py.File(path) as file:
            file.visititems(lambda name, item: parts.append(name.encode() + _array_bytes(item)))
            return b"".join(parts) + repr(sorted(file.attrs.items())).encode()
    return path.read_bytes()


def _array_bytes(item: h5py.Dataset | h5py.Group) -> bytes:
    return item[()].tobytes() if isinstance(item, h5py.Dataset) else b""


def _without_times(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if name not in _EPOCH_TIMES}


def find_finished(folder):
    """Lists the files of the finished FOVs or shards of a stopped job: those with a note."""
    noted = {path.name.removesuffix(".json").removesuffix(".tfrecord") for path in folder.rglob("[!.]*.json")}
    return [path for path in folder.rglob("[!.]*.tfrecord") if path.stem in noted]


def identify(paths):
    """Returns what changes when a file is written anew, even with the same bytes."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def read_first_step(lines):
    """Returns the step that training says it goes on at, 0 where it says none."""
    steps = re.findall(r"^going on with .* at step (\d+)$", "\n".join(lines), re.MULTILINE)
    return int(steps[0]) if steps else 0
