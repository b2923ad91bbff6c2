"""Python's own start-up hook: below FAULT_DISK, writes fail with ENOSPC once FAULT_DISK_BYTES have been written."""

import builtins
import errno
import io
import os
import threading

_ROOT = os.path.realpath(os.environ["FAULT_DISK"])
_open = io.open
_left = int(os.environ["FAULT_DISK_BYTES"])
_lock = threading.Lock()


class _File:
    """A file that is open for writing; all but `write` is the file's own."""

    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)

    def write(self, data):
        global _left
        with _lock:
            _left -= len(data)
            if _left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)


def _limited_open(file, mode="r", *arguments, **options):
    opened = _open(file, mode, *arguments, **options)
    is_below = isinstance(file, str | os.PathLike) and os.path.realpath(file).startswith(_ROOT + os.sep)
    return _File(opened) if is_below and set(mode) & set("wxa") else opened


builtins.open = io.open = _limited_open
