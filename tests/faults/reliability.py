"""RELIABILITY.md: every fault tried, with the figures that a run gave.

    RELIABILITY_OUT=faults.jsonl python -m pytest -m slow tests/faults
    python tests/faults/reliability.py faults.jsonl > RELIABILITY.md

A test calls `record` after its last assertion, so what stands on the page has passed. Of rows with the same fault the last
counts: a harness may be run again by itself and its rows appended.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys

_HEAD = """# Reliability

What was done to the programs, how often, what happened, and the promise that stands on it. Every figure is of a run of the
command in its row; `RELIABILITY_OUT=faults.jsonl make test-slow`, then `python tests/faults/reliability.py faults.jsonl`,
writes this page anew.
"""
_COLUMNS = ("fault", "how often", "what happened", "promise", "command")


@dataclasses.dataclass(frozen=True)
class Trial:
    """A row of the page; all texts are Markdown of one line.

    Attributes:
      part: heading that the row stands under.
      fault: what was done.
      times: how often, as "30 kills in 9 runs".
      outcome: what happened, with figures.
      promise: what a user may count on.
      command: repeats it.
    """

    part: str
    fault: str
    times: str
    outcome: str
    promise: str
    command: str


def record(trial: Trial) -> None:
    """Appends a row to the file that RELIABILITY_OUT names; without the variable nothing is written."""
    if path := os.environ.get("RELIABILITY_OUT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(trial)) + "\n")


def render(trials: list[Trial]) -> str:
    """Writes the page."""
    latest = {(trial.part, trial.fault): trial for trial in trials}
    lines = [_HEAD]
    for part in dict.fromkeys(trial.part for trial in latest.values()):
        lines += [f"## {part}", "", _row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
        for trial in latest.values():
            if trial.part == part:
                cells = (trial.fault, trial.times, trial.outcome, trial.promise, f"`{trial.command}`")
                lines.append(_row(cells))
        lines.append("")
    return "\n".join(lines)


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    sys.stdout.write(render([Trial(**json.loads(line)) for line in text.splitlines()]))
