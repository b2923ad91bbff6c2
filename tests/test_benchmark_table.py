"""The README's figures are those of the committed results, and the results tell of the machine what they should and no more."""

import json
import pathlib
import shutil

import pytest

from hpa_proto import benchmark_report, benchmark_table
from hpa_proto.benchmark_report import Result
from hpa_proto.benchmarking import Figure

_ROOT = pathlib.Path(__file__).parents[1]
_RESULTS = sorted((_ROOT / "benchmarks").glob("*.json"))


def strings_in(value):
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *strings_in(item))]
    if isinstance(value, list):
        return [text for item in value for text in strings_in(item)]
    return [value] if isinstance(value, str) else []


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "results"
    about = benchmark_report.describe_run("python -m one", {"repeats": 3})
    figures = (
        Figure("suite", "quick", "x", (11.0, 12.0, 13.0), at_least=10),
        Figure("suite", "small", "MB", (7.0,), at_most=5, less_is_better=True),
        Figure("suite", "of no aim", "s", (1.0,)),
    )
    benchmark_report.write_result(str(folder / "one.json"), Result(about, figures))
    return folder


def test_the_readme_has_the_committed_figures():
    page = (_ROOT / "README.md").read_text()
    assert benchmark_table.replace_section(page, benchmark_table.format_results(str(_ROOT / "benchmarks"))) == page, (
        "run: python -m hpa_proto.benchmark_table benchmarks README.md"
    )


def test_both_halves_have_a_committed_result():
    commands = [benchmark_report.read_result(str(path)).about["command"] for path in _RESULTS]
    assert {"python -m beam_jobs.benchmark", "python -m trainer.benchmark"} <= set(commands)


@pytest.mark.parametrize("path", _RESULTS, ids=lambda path: path.name)
def test_a_committed_result_says_where_it_is_from(path):
    about = benchmark_report.read_result(str(path)).about
    assert set(about) == {"command", "date", "commit", "machine", "load_average", "versions", "flags"}
    assert set(about["machine"]) == {"processor", "cores", "memory_gb", "system", "accelerators"}
    assert len(about["commit"].split()[0]) == 40
    assert {"python", "numpy"} <= set(about["versions"])


@pytest.mark.parametrize("path", _RESULTS, ids=lambda path: path.name)
def test_a_committed_result_names_no_path_of_its_machine(path):
    words = [word for text in strings_in(json.loads(path.read_text())) for word in text.split()]
    assert not [word for word in words if word.startswith(("/", "~", "file:")) and len(word) > 1]


@pytest.mark.parametrize("path", _RESULTS, ids=lambda path: path.name)
def test_a_committed_table_is_that_of_its_result(path):
    assert path.with_suffix(".md").read_text() == benchmark_report.format_result(
        benchmark_report.read_result(str(path))
    )


def test_figures_with_an_aim_go_between_the_comments(folder, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- benchmarks -->\nold\n<!-- end of benchmarks -->\nafter\n")
    assert benchmark_table.main(["benchmark_table", str(folder), str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- benchmarks -->\n`python -m one` on ")
    assert text.endswith("<!-- end of benchmarks -->\nafter\n")
    assert "| suite | quick | 12 | 11.5 to 12.5 | x |  | at least 10: yes |" in text
    assert "at most 5: **no**" in text
    assert "(results/one.md)" in text
    assert "old" not in text
    assert "of no aim" not in text
    benchmark_table.main(["benchmark_table", str(folder), str(page)])
    assert page.read_text() == text


@pytest.mark.parametrize("fault", ["no place", "no result", "not a result"])
def test_a_fault_is_one_line_and_leaves_the_page(folder, tmp_path, capsys, fault):
    page = tmp_path / "page.md"
    page.write_text("" if fault == "no place" else "<!-- benchmarks --><!-- end of benchmarks -->")
    before = page.read_text()
    if fault == "no result":
        shutil.rmtree(folder)
    if fault == "not a result":
        (folder / "two.json").write_text("{}")
    assert benchmark_table.main(["benchmark_table", str(folder), str(page)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert page.read_text() == before
