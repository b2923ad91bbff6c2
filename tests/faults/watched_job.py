"""Commands of this project as processes whose memory is watched while they run."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil
from matplotlib.figure import Figure


@dataclasses.dataclass
class Memory:
    """Resident memory of one process over time.

    Attributes:
      name: "job" or "worker".
      seconds: since the job's start.
      mib: at these times.
    """

    name: str
    seconds: list[float] = dataclasses.field(default_factory=list)
    mib: list[float] = dataclasses.field(default_factory=list)

    def at(self, share: float) -> float:
        """Median of five samples around a share of the process's life, MiB."""
        middle = round(share * (len(self.mib) - 1))
        return float(np.median(self.mib[max(0, middle - 2) : middle + 3]))


@dataclasses.dataclass
class Job:
    """A finished command.

    Attributes:
      output: what it printed.
      wall_sec: time.
      cpu_sec: of all its processes.
      memories: of the job first, then of its workers.
    """

    output: str
    wall_sec: float
    cpu_sec: float
    memories: list[Memory]


def run(module: str, *flags: str, sample_sec: float = 0.25) -> Job:
    """Runs a command of this project and watches the memory of its processes.

    Raises:
      RuntimeError: it failed; the text ends with what it said.
    """
    memories: dict[int, Memory] = {}
    start = time.monotonic()
    # A file and no pipe: nobody reads while the job runs.
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        job = psutil.Process(process.pid)
        usage = None
        while usage is None:
            time.sleep(sample_sec)
            _sample(job, memories, time.monotonic() - start)
            pid, status, found = os.wait4(process.pid, os.WNOHANG)
            usage = found if pid else None
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{module} ended with {process.returncode}: {text[-3000:]}")
    return Job(text, time.monotonic() - start, usage.ru_utime + usage.ru_stime, list(memories.values()))


def _sample(job: psutil.Process, memories: dict[int, Memory], seconds: float) -> None:
    try:
        processes = [job, *job.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            mib = process.memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            continue
        # A process that has ended has no memory, and a shell between job and worker is none of them.
        if mib and (process is job or mib > 50):
            memory = memories.setdefault(process.pid, Memory("job" if process is job else "worker"))
            memory.seconds.append(seconds)
            memory.mib.append(mib)


def draw_memory(jobs: dict[str, Job], path: pathlib.Path | str) -> None:
    """Draws the memory of each process over time, a panel a job."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, (name, job) in zip(figure.subplots(1, len(jobs), sharey=True), jobs.items(), strict=True):
        for number, memory in enumerate(job.memories):
            label = memory.name if memory.name == "job" else f"worker {number}"
            axes.plot(memory.seconds, memory.mib, label=label, linewidth=1)
        axes.set(title=f"beam_jobs.{name}", xlabel="seconds")
        axes.legend(loc="upper left")
        axes.grid(alpha=0.3)
    # Shared by both; set before the last is drawn, it would cut that off.
    figure.axes[0].set(ylabel="resident memory, MiB", ylim=(0, None))
    figure.savefig(path, dpi=80)
