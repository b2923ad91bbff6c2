"""Small disks to fill: a mounted tmpfs, or, where mounting is not allowed, writes that fail after so many bytes."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
from collections.abc import Iterator

_PATCHES = pathlib.Path(__file__).parent / "full_disk"


class SmallDisk:
    """A folder with little room.

    Attributes:
      path: the folder.
      kind: "tmpfs" or "failing writes".
    """

    def __init__(self, path: pathlib.Path, *, num_bytes: int):
        self.path = path
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "none", str(path)]
        is_mounted = "FAULT_NO_MOUNT" not in os.environ and subprocess.run(mount, capture_output=True).returncode == 0
        self.kind = "tmpfs" if is_mounted else "failing writes"
        self._num_bytes = num_bytes

    def variables(self) -> dict[str, str]:
        """What a command's environment must have for the disk to be small."""
        if self.kind == "tmpfs" or not self._num_bytes:
            return {}
        old = os.environ.get("PYTHONPATH")
        return {
            "PYTHONPATH": os.pathsep.join([str(_PATCHES), *([old] if old else [])]),
            "FAULT_DISK": str(self.path),
            "FAULT_DISK_BYTES": str(self._num_bytes),
        }

    def make_room(self) -> None:
        """Makes the disk large."""
        self._num_bytes = 0
        if self.kind == "tmpfs":
            subprocess.run(["mount", "-o", "remount,size=1g", str(self.path)], check=True)


@contextlib.contextmanager
def small_disk(path: pathlib.Path, *, num_bytes: int) -> Iterator[SmallDisk]:
    """Makes a small disk and takes it away again."""
    disk = SmallDisk(path, num_bytes=num_bytes)
    try:
        yield disk
    finally:
        if disk.kind == "tmpfs":
            subprocess.run(["umount", str(path)], check=True)
