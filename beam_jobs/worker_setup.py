"""What a worker sets up once, before its first element."""

from __future__ import annotations

import cv2

from hpa_proto import memory


def set_up_worker() -> None:
    """Gives the cores to Beam, since OpenCV's own threads would fight with the other workers over them, and keeps memory."""
    cv2.setNumThreads(1)
    memory.keep_freed_memory()
