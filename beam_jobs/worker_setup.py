"""What a worker sets up once, before its first element."""

from __future__ import annotations

import ctypes
import platform

import cv2

# glibc's numbers (malloc.h).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_BYTES = 256 << 20


def set_up_worker() -> None:
    """Gives the cores to Beam and keeps freed memory for the next picture.

    OpenCV's own threads would fight with the other workers over the cores. And glibc hands buffers of a picture's size back
    to the system at every free and gets them, page by page, at every allocation: a tenth of the time of a job.
    """
    cv2.setNumThreads(1)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
