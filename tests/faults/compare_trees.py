"""Compares what the same commands made in two folders, file by file: everything must be equal but what `ALLOWED` lists.

    python tests/faults/compare_trees.py reproduce/a reproduce/b

Prints what is equal, what may differ and why, and every difference that may not be. Exit status 1 if there is one.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import io
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np
import pandas as pd
import reliability

# Columns of history.csv and of the history in a checkpoint.
_SPEEDS = ("images_per_second", "input_wait_share")
Content = bytes | dict[str, object]


@dataclasses.dataclass(frozen=True)
class Allowance:
    """What may differ in some files.

    Attributes:
      pattern: of their paths below the folder.
      what: may differ.
      why: it does.
      read: returns the rest; None: the file is only asked to be there.
    """

    pattern: str
    what: str
    why: str
    read: Callable[[bytes], Content] | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What two folders have in common.

    Attributes:
      num_equal: files that are equal byte for byte.
      allowed: pattern -> files of it that differ in nothing but what may differ.
      different: a line for each difference that may not be.
    """

    num_equal: int
    allowed: dict[str, list[str]]
    different: list[str]


def _fov_note(data: bytes) -> Content:
    note = json.loads(data)
    note["fov"] = {name: value for name, value in note["fov"].items() if not name.endswith("_msec")}
    return note


def _fov_table(data: bytes) -> Content:
    table = pd.read_parquet(io.BytesIO(data))
    # As text: NaN equals itself there.
    columns = {name: table[name].to_csv() for name in table.columns if not name.endswith("_msec")}
    return {**columns, "types": table.dtypes.astype(str).to_dict()}


def _without_command_line(data: bytes) -> Content:
    return {name: value for name, value in json.loads(data).items() if name != "command_line"}


def _manifest(data: bytes) -> Content:
    return {name: value for name, value in _without_command_line(data).items() if name != "digest"}


def _run_config(data: bytes) -> Content:
    config = _without_command_line(data)
    # The manifest has a command line and a digest too.
    config["run"] = {name: value for name, value in config["run"].items() if name != "manifest_sha256"}
    return config


def _history(data: bytes) -> Content:
    return pd.read_csv(io.BytesIO(data), dtype=str).drop(columns=list(_SPEEDS)).to_dict("list")


def _checkpoint(data: bytes) -> Content:
    with np.load(io.BytesIO(data)) as arrays:
        content = {name: (str(arrays[name].dtype), arrays[name].tobytes()) for name in arrays.files if name != "state"}
        state = json.loads(arrays["state"].tobytes())
    return content | {"state": _without_speeds(state)}


def _metrics(data: bytes) -> Content:
    return _without_speeds(json.loads(data))


def _without_speeds(content: dict[str, Any]) -> Content:
    history = [{name: value for name, value in row.items() if name not in _SPEEDS} for row in content["history"]]
    return content | {"history": history}


def _hdf5(data: bytes) -> Content:
    content: dict[str, object] = {}

    def visit(name: str, item: h5py.HLObject) -> None:
        content[f"{name} attributes"] = {key: str(value) for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            content[name] = (str(item.dtype), item.shape, item[()].tobytes())

    with h5py.File(io.BytesIO(data)) as file:
        visit("/", file)
        file.visititems(visit)
    return content


_TIMES = "they are measured"
ALLOWED = (
    Allowance("*fovs/??/*.json", "times of a FOV (`*_msec`)", _TIMES, _fov_note),
    Allowance("*fovs.parquet", "times of a FOV (`*_msec`)", _TIMES, _fov_table),
    Allowance("*manifest.json", "command_line", "it names the folders; the digest covers it", _manifest),
    Allowance("*runs/*/config.json", "command_line, manifest_sha256", "they follow the folders' names", _run_config),
    Allowance("*runs/*/history.csv", ", ".join(_SPEEDS), "they are measured", _history),
    Allowance("*runs/*/checkpoints/last.npz", f"{', '.join(_SPEEDS)} in its history", "they are measured", _checkpoint),
    Allowance("*report/metrics.json", f"{', '.join(_SPEEDS)} in its history", "they are measured", _metrics),
    Allowance("*runs/*/checkpoints/*.h5", "the arrangement in the file", "HDF5 is free to choose it", _hdf5),
    Allowance("*runs/*/tensorboard/*", "all", "TensorBoard writes times, host and process into name and events", None),
)


def compare(first: pathlib.Path, second: pathlib.Path) -> Comparison:
    """Compares two folders.

    Args:
      first: a folder.
      second: another one.
    """
    files = [_list_files(folder) for folder in (first, second)]
    different = [f"{name}: only in {first}" for name in sorted(files[0] - files[1])]
    different += [f"{name}: only in {second}" for name in sorted(files[1] - files[0])]
    num_equal = 0
    allowed: dict[str, list[str]] = {}
    for name in sorted(files[0] & files[1]):
        allowance = _find_allowance(name)
        if name.endswith("/*"):
            allowed.setdefault(allowance.pattern, []).append(name)
            continue
        pair = [(folder / name).read_bytes() for folder in (first, second)]
        if pair[0] == pair[1]:
            num_equal += 1
        elif allowance is None:
            different.append(f"{name}: {_first_difference(*pair)}")
        else:
            contents = [allowance.read(data) for data in pair]
            if contents[0] == contents[1]:
                allowed.setdefault(allowance.pattern, []).append(name)
            else:
                parts = [key for key in contents[0] if contents[0].get(key) != contents[1].get(key)]
                different.append(f"{name}: differs beyond {allowance.what}: {', '.join(map(str, parts))[:300]}")
    return Comparison(num_equal, allowed, different)


def describe(comparison: Comparison) -> str:
    """Says in words what a comparison found."""
    lines = [f"equal      {comparison.num_equal:,} files, byte for byte"]
    for allowance in ALLOWED:
        if names := comparison.allowed.get(allowance.pattern):
            lines.append(f"allowed    {len(names):,} {allowance.pattern}: {allowance.what}; {allowance.why}")
    lines += [f"DIFFERENT  {line}" for line in comparison.different]
    return "\n".join(lines)


def _list_files(folder: pathlib.Path) -> set[str]:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    # Files that are only asked to be there have names of their own: one stands for all of a folder.
    free = [allowance.pattern for allowance in ALLOWED if allowance.read is None]
    return {
        f"{pathlib.PurePosixPath(name).parent}/*" if any(fnmatch.fnmatch(name, pattern) for pattern in free) else name
        for name in names
    }


def _find_allowance(name: str) -> Allowance | None:
    return next((allowance for allowance in ALLOWED if fnmatch.fnmatch(name, allowance.pattern)), None)


def _first_difference(first: bytes, second: bytes) -> str:
    shorter = min(len(first), len(second))
    pair = [np.frombuffer(data[:shorter], np.uint8) for data in (first, second)]
    differing = np.flatnonzero(pair[0] != pair[1])
    place = int(differing[0]) if len(differing) else shorter
    return f"{len(first):,} and {len(second):,} bytes, the first difference at byte {place:,}"


def main(argv: Sequence[str]) -> int:
    """Compares the folders that the command line names; returns the exit status."""
    if len(argv) != 3:
        print(__doc__)
        return 2
    folders = [pathlib.Path(name) for name in argv[1:]]
    for folder in folders:
        if not folder.is_dir():
            print(f"error: {folder} is no folder; give the two that are to be compared", file=sys.stderr)
            return 1
    comparison = compare(*folders)
    print(describe(comparison))
    if comparison.different or not comparison.num_equal:
        return 1
    _record(comparison)
    return 0


def _record(comparison: Comparison) -> None:
    named = [allowance for allowance in ALLOWED if allowance.pattern in comparison.allowed]
    num_allowed = sum(map(len, comparison.allowed.values()))
    reliability.record(
        reliability.Trial(
            part="Reproducible",
            fault="The demo made twice from nothing: FOVs, cells, data sets, training, report",
            times="2 runs",
            outcome=f"{comparison.num_equal:,} files equal byte for byte, {num_allowed:,} but for "
            + "; ".join(f"{allowance.what} (`{allowance.pattern.lstrip('*')}`)" for allowance in named),
            promise="The same input and flags give the same cells and shards; the same weights and figures with "
            "`TF_DETERMINISTIC_OPS=1`, which the command sets.",
            command="make reproduce",
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
