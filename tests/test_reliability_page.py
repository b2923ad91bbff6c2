"""RELIABILITY.md names only what is there, and is made of the rows as promised."""

import dataclasses
import pathlib
import re

from faults import reliability

_ROOT = pathlib.Path(__file__).parents[1]
_PAGE = _ROOT / "RELIABILITY.md"


def test_page_has_every_part_of_a_full_run():
    text = _PAGE.read_text()
    assert tuple(re.findall("^## (.*)$", text, re.MULTILINE)) == reliability.PARTS
    kills = re.findall(r"^\| SIGKILL to .* at random moments .*?\| (\d+) kills in", text, re.MULTILINE)
    assert len(kills) == 3
    assert sum(map(int, kills)) >= 30
    assert "of 489,871 tiny cells in 21,806 FOVs" in text
    assert re.findall(r"!\[.*\]\((.*)\)", text), "no picture of the memory at full size"


def test_page_names_only_what_is_there():
    text = _PAGE.read_text()
    assert "| `python -m pytest" in text
    for path, word in re.findall(r"(tests/[\w/]+\.py)(?: -k (\w+))?", text):
        assert word in (_ROOT / path).read_text(), path
    for target in re.findall(r"`make ([\w-]+)", text):
        assert f"\n{target}:" in (_ROOT / "Makefile").read_text(), target
    for path in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (_ROOT / path).exists(), path


def test_last_row_of_a_fault_counts_and_parts_have_their_order():
    row = reliability.Trial("Full size", "a|b", "1 lost", "none is lost", times="1 run", command="make demo")
    page = reliability.render(
        [row, dataclasses.replace(row, part="Killed"), dataclasses.replace(row, outcome="0 lost")]
    )
    assert "1 lost" not in page.partition("## Full size")[2]
    assert re.findall("## (.*)", page) == ["Killed", "Full size"]
    assert "| a\\|b | 1 run | 0 lost | none is lost | `make demo` |" in page


def test_rows_are_written_only_where_they_are_asked_for(tmp_path, monkeypatch):
    row = reliability.Trial("Killed", "fault", "outcome", "promise")
    monkeypatch.delenv("RELIABILITY_OUT", raising=False)
    reliability.record(row)
    monkeypatch.setenv("RELIABILITY_OUT", str(tmp_path / "rows.jsonl"))
    reliability.record(row)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1


def test_what_a_program_said_is_one_piece_of_code():
    assert reliability.quote("error: run `make demo` again") == "`error: run make demo again`"
    assert reliability.quote("x" * 200, max_length=20) == f"`{'x' * 17}...`"
