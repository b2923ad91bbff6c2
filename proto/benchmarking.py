"""What both halves' benchmarks share: how variants of a piece of work are timed, and what comes of it.

Machines drift, most of all shared ones. So the variants of a suite are timed in turn, in many short rounds whose order
turns round every time, and a ratio is the median of the ratios within rounds. CPU time stands beside wall time.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from hpa_proto.errors import ConfigError, DatasetError, reason_of

# A small piece of work that returns the number of units done. One that is a context manager too is entered before each
# timing and left after it: a loader that prefetches must not work on while others are timed.
Work = Callable[[], float]

# So short that one piece of work is enough.
_ONCE = 1e-9


class NotMeasuredError(Exception):
    """A suite cannot run here; the text says why."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
      suite: that measured it.
      name: what was measured.
      unit: of the values.
      values: one a round; of what is no time, one a picture or a step.
      cpu: for a rate or a time, CPU milliseconds of all processes a unit of work; for a ratio, the ratio of these; one a
        round, or empty.
      at_least: what is aimed at.
      at_most: likewise.
      less_is_better: of the values.
    """

    suite: str
    name: str
    unit: str
    values: tuple[float, ...]
    cpu: tuple[float, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    less_is_better: bool = False

    @property
    def median(self) -> float:
        """Median of the values."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile of the values: half of all rounds lie between."""
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times as fast one variant is as another.

    Attributes:
      name: what it shows.
      variant: the one.
      against: the other.
      at_least: what is aimed at.
      at_most: likewise, of a ratio that says how much longer the other takes.
    """

    name: str
    variant: str
    against: str
    at_least: float | None = None
    at_most: float | None = None


@dataclasses.dataclass(frozen=True)
class Round:
    """One timing of one variant.

    Attributes:
      num_units: units of work done.
      wall_sec: time.
      cpu_sec: CPU time of this process and of its children.
    """

    num_units: float
    wall_sec: float
    cpu_sec: float


class Suite(abc.ABC):
    """Variants of one kind of work, to be timed in turn.

    Attributes:
      name: for --suites.
      title: one line for the reader.
      unit: of work, in the singular.
      reads_as: "rate" (units a second) or "time" (seconds a unit).
      warm_ups: calls of each variant before the first round: compilation, imports, fresh memory.
      settle_sec: untimed work before each timing, so that buffers have their usual filling and workers run.
      least_rounds: rounds of variants so alike that fewer, if fewer are asked for, would tell nothing.
      at_most: greatest values aimed at, by variant.
      notes: what could not be measured and what a reader must know; filled by `prepare`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str] = "image"
    reads_as: ClassVar[str] = "rate"
    warm_ups: ClassVar[int] = 1
    settle_sec: ClassVar[float] = 0.0
    least_rounds: ClassVar[int] = 1
    at_most: ClassVar[Mapping[str, float]] = types.MappingProxyType({})

    def __init__(self) -> None:
        self.notes: list[str] = []

    @abc.abstractmethod
    def prepare(self, folder: str) -> None:
        """Makes the input, not timed.

        Args:
          folder: an empty one of this suite's own, removed afterwards.

        Raises:
          NotMeasuredError: the suite cannot run here.
        """

    @abc.abstractmethod
    def variants(self) -> dict[str, Work]:
        """Returns the timed parts: each call does a small piece of work and returns the number of units done."""

    def ratios(self) -> Sequence[Ratio]:
        """Returns which variants are compared."""
        return ()

    def own_figures(self) -> Sequence[Figure]:
        """Returns figures that are not times; called after the last round."""
        return ()

    def close(self) -> None:  # noqa: B027 (most suites have nothing to end)
        """Ends what `prepare` began."""


def run_suites(
    suites: Iterable[Suite], *, repeats: int, round_sec: float
) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """Runs suites one after the other, each in a folder of its own; says on stderr which.

    Args:
      suites: what to measure.
      repeats: see `run_suite`.
      round_sec: see `run_suite`.

    Returns:
      (figures, notes). A suite that cannot run has a note in place of figures: what others have measured is not lost.

    Raises:
      ConfigError, DatasetError, RuntimeError: of the first suite that cannot run, where none can.
    """
    figures: list[Figure] = []
    notes: list[str] = []
    errors: list[Exception] = []
    for suite in suites:
        print(f"{suite.name}: {suite.title}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                figures += run_suite(suite, folder=folder, repeats=repeats, round_sec=round_sec)
            except NotMeasuredError as error:
                suite.notes.append(f"not measured: {error}")
            except (ConfigError, DatasetError, RuntimeError) as error:
                suite.notes.append(f"not measured: {reason_of(error)}")
                errors.append(error)
        notes += [f"{suite.name}: {note}" for note in suite.notes]
    if errors and not figures:
        raise errors[0]
    return tuple(figures), tuple(notes)


def run_suite(suite: Suite, *, folder: str, repeats: int, round_sec: float) -> list[Figure]:
    """Times the variants of a suite in turn.

    Args:
      suite: what to measure.
      folder: an empty folder.
      repeats: rounds, or the suite's `least_rounds` if these are more.
      round_sec: a timing goes on with whole pieces of work until this time has passed.

    Raises:
      NotMeasuredError: the suite cannot run here.
    """
    try:
        suite.prepare(folder)
        works = suite.variants()
        for work in works.values():
            for _ in range(suite.warm_ups):
                _time(work, settle_sec=0, round_sec=_ONCE)
        rounds: dict[str, list[Round]] = {name: [] for name in works}
        for number in range(max(repeats, suite.least_rounds)):
            for name in sorted(works, key=list(works).index, reverse=number % 2 == 1):
                length_sec = max(round_sec, _ONCE)
                rounds[name].append(_time(works[name], settle_sec=suite.settle_sec, round_sec=length_sec))
        figures = [_figure(suite, name, rounds[name]) for name in works]
        figures += [_ratio_figure(suite, ratio, rounds) for ratio in suite.ratios()]
        return [*figures, *suite.own_figures()]
    finally:
        suite.close()


def _time(work: Work, *, settle_sec: float, round_sec: float) -> Round:
    with work if isinstance(work, contextlib.AbstractContextManager) else contextlib.nullcontext():
        _work_for(work, settle_sec)
        cpu_sec = cpu_seconds()
        num_units, wall_sec = _work_for(work, round_sec)
        return Round(num_units, wall_sec, cpu_seconds() - cpu_sec)


def _work_for(work: Work, seconds: float) -> tuple[float, float]:
    start = time.perf_counter()
    num_units = elapsed = 0.0
    while elapsed < seconds:
        num_units += work()
        elapsed = time.perf_counter() - start
    return num_units, elapsed


def cpu_seconds() -> float:
    """Returns the CPU time so far of this process, of its finished children and, on Linux, of its running workers."""
    times = os.times()
    running = sum(_cpu_seconds_of(child.pid) for child in multiprocessing.active_children())
    return time.process_time() + times.children_user + times.children_system + running


def _cpu_seconds_of(pid: int | None) -> float:
    try:
        # The name in brackets may hold spaces; user and system time are the 12th and 13th field after it.
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _figure(suite: Suite, name: str, rounds: Sequence[Round]) -> Figure:
    is_rate = suite.reads_as == "rate"
    values = tuple(r.num_units / r.wall_sec if is_rate else r.wall_sec / r.num_units for r in rounds)
    cpu = tuple(1000 * r.cpu_sec / r.num_units for r in rounds)
    unit = f"{suite.unit}s/s" if is_rate else f"s/{suite.unit}"
    return Figure(suite.name, name, unit, values, cpu, at_most=suite.at_most.get(name), less_is_better=not is_rate)


def _ratio_figure(suite: Suite, ratio: Ratio, rounds: Mapping[str, Sequence[Round]]) -> Figure:
    pairs = list(zip(rounds[ratio.variant], rounds[ratio.against], strict=True))
    values = tuple((a.num_units / a.wall_sec) / (b.num_units / b.wall_sec) for a, b in pairs)
    # Work of microseconds may take no CPU time that the clock sees.
    cpu = tuple((b.cpu_sec / b.num_units) / (a.cpu_sec / a.num_units) for a, b in pairs if a.cpu_sec > 0)
    aims = {"at_least": ratio.at_least, "at_most": ratio.at_most, "less_is_better": ratio.at_most is not None}
    return Figure(suite.name, ratio.name, "x", values, cpu, **aims)


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
