"""RELIABILITY.md: every fault tried, with the figures that a run gave.

    RELIABILITY_OUT=faults.jsonl python -m pytest tests/faults
    python tests/faults/reliability.py faults.jsonl > RELIABILITY.md

A test calls `record` after its last assertion, so what stands on the page has passed. Of rows with the same fault the last
counts: a harness may be run again by itself and its rows appended. `make reliability` runs all that have rows.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys

_HEAD = """# Reliability

What was done to the programs, how often, what happened, and the promise that stands on it. Every figure is of a run of the
command in its row. `make reliability TABLE=train_cells.csv` (columns `ID`, `Label` and `num_cells`; hours) writes this page
anew.
"""
_COLUMNS = ("fault", "how often", "what happened", "promise", "command")
# In the page's order.
PARTS = (
    "Killed",
    "Full disk",
    "Damage",
    "Two jobs",
    "Bad input",
    "Hostile input",
    "Fuzzing",
    "Object stores",
    "Other runners",
    "Full size",
    "Long training",
    "Reproducible",
)
# Below the rows of a run that has drawn it.
_PICTURE = "docs/full_size_memory.png"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A row of the page; all texts are Markdown of one line.

    Attributes:
      part: one of `PARTS`.
      fault: what was done.
      outcome: what happened, with figures.
      promise: what a user may count on.
      times: how often, as "30 kills in 9 runs".
      command: repeats it.
    """

    part: str
    fault: str
    outcome: str
    promise: str
    times: str = ""
    command: str = ""


def record(trial: Trial) -> None:
    """Appends a row to the file that RELIABILITY_OUT names; without the variable nothing is written."""
    assert trial.part in PARTS, trial.part
    if path := os.environ.get("RELIABILITY_OUT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(trial)) + "\n")


def quote(text: str, *, max_length: int = 140) -> str:
    """Makes code of what a program said: cut short, and without backticks of its own, which would end it."""
    plain = text.replace("`", "").strip()
    return f"`{plain if len(plain) <= max_length else plain[: max_length - 3] + '...'}`"


def render(trials: list[Trial]) -> str:
    """Writes the page."""
    latest = {(trial.part, trial.fault): trial for trial in trials}
    lines = [_HEAD]
    for part in PARTS:
        rows = [trial for trial in latest.values() if trial.part == part]
        if rows:
            lines += [f"## {part}", "", _row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
            lines += [_row((row.fault, row.times, row.outcome, row.promise, f"`{row.command}`")) for row in rows]
            is_drawn = any(_PICTURE in row.command for row in rows)
            lines += ["", *([f"![Memory of both jobs over time, at full size]({_PICTURE})", ""] if is_drawn else [])]
    return "\n".join(lines)


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    sys.stdout.write(render([Trial(**json.loads(line)) for line in text.splitlines()]))
