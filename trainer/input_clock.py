"""How fast training runs and how long its steps wait for input."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any


class InputClock:
    """Measures images a second and the share of time that steps waited for input, from the end of the first step on.

    The first step is left out because it compiles. The caller waits for its result before it calls `count`.
    """

    def __init__(self) -> None:
        self._num_images = 0
        self._waited_sec = 0.0
        self._start_sec: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether the first step is over."""
        return self._start_sec is not None

    def next_batch(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Returns the next batch and notes how long it took to come."""
        before_sec = time.perf_counter()
        batch = next(batches)
        if self.is_running:
            self._waited_sec += time.perf_counter() - before_sec
        return batch

    def count(self, num_images: int) -> None:
        """Counts the images of one step."""
        if self.is_running:
            self._num_images += num_images
        else:
            self._start_sec = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Returns "images_per_second" and "input_wait_share" (0..1); NaN where there was only one step."""
        if not self._num_images:
            return {"images_per_second": math.nan, "input_wait_share": math.nan}
        elapsed_sec = time.perf_counter() - self._start_sec
        return {
            "images_per_second": self._num_images / elapsed_sec,
            "input_wait_share": self._waited_sec / elapsed_sec,
        }
