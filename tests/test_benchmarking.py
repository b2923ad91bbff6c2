import contextlib
import json
import multiprocessing
import pathlib
import time
import types

import pytest

from hpa_proto import benchmark_report, benchmarking
from hpa_proto.benchmark_report import Result
from hpa_proto.benchmarking import Figure, NotMeasuredError, Ratio, Suite
from hpa_proto.errors import ConfigError


class Clock:
    """A clock that only work moves."""

    def __init__(self):
        self.now = 100.0
        self.calls = []

    def work(self, name, *, seconds):
        def do():
            self.calls.append(name)
            self.now += seconds
            return 10

        return do


class FakeSuite(Suite):
    name = "fake"
    title = "fakes"

    def __init__(self, clock, *, fails=False):
        super().__init__()
        self.clock, self.fails, self.folder, self.closed = clock, fails, None, False

    def prepare(self, folder):
        self.folder = pathlib.Path(folder)
        assert list(self.folder.iterdir()) == []
        if self.fails:
            raise NotMeasuredError("no such machine")

    def variants(self):
        return {"quick": self.clock.work("quick", seconds=0.5), "slow": self.clock.work("slow", seconds=2.0)}

    def ratios(self):
        return [Ratio("quick against slow", "quick", "slow", at_least=3)]

    def own_figures(self):
        return [Figure(self.name, "size", "KB", (1.0, 2.0, 9.0), at_most=1.5, less_is_better=True)]

    def close(self):
        self.closed = True


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    fake = types.SimpleNamespace(perf_counter=lambda: clock.now, process_time=lambda: clock.now / 2)
    monkeypatch.setattr(benchmarking, "time", fake)
    return clock


def run(suite, tmp_path, *, repeats=3, round_sec=1.0):
    return {
        f.name: f for f in benchmarking.run_suite(suite, folder=str(tmp_path), repeats=repeats, round_sec=round_sec)
    }


def test_variants_are_timed_in_turn_and_the_order_turns_round(clock, tmp_path):
    run(FakeSuite(clock), tmp_path, repeats=3, round_sec=0.1)
    warm_up, rounds = clock.calls[:2], clock.calls[2:]
    assert warm_up == ["quick", "slow"]
    assert rounds == ["quick", "slow", "slow", "quick", "quick", "slow"]


def test_a_timing_goes_on_until_the_round_is_over(clock, tmp_path):
    run(FakeSuite(clock), tmp_path, repeats=1, round_sec=1.6)
    assert clock.calls[2:] == ["quick"] * 4 + ["slow"]


def test_a_timing_without_a_length_is_one_piece_of_work(clock, tmp_path):
    assert run(FakeSuite(clock), tmp_path, repeats=1, round_sec=0.0)["quick"].values == (20.0,)
    assert clock.calls[2:] == ["quick", "slow"]


def test_settling_is_not_timed(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeSuite, "settle_sec", 0.9)
    figures = run(FakeSuite(clock), tmp_path, repeats=1, round_sec=0.5)
    assert clock.calls[2:] == ["quick"] * 2 + ["quick"] + ["slow"] + ["slow"]
    assert figures["quick"].values == (20.0,)


def test_variants_that_are_alike_get_their_rounds_whatever_is_asked_for(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeSuite, "least_rounds", 5)
    assert len(run(FakeSuite(clock), tmp_path, repeats=3)["slow"].values) == 5
    assert len(run(FakeSuite(clock), tmp_path, repeats=7)["slow"].values) == 7


def test_rate_cpu_time_and_ratio(clock, tmp_path):
    figures = run(FakeSuite(clock), tmp_path)
    assert figures["quick"].values == (20.0,) * 3
    assert figures["quick"].unit == "images/s"
    assert figures["quick"].cpu == pytest.approx((25.0,) * 3)
    assert figures["quick against slow"].values == (4.0,) * 3
    assert figures["quick against slow"].cpu == pytest.approx((4.0,) * 3)


def test_time_a_unit(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeSuite, "reads_as", "time")
    figures = run(FakeSuite(clock), tmp_path)
    assert (figures["slow"].values, figures["slow"].unit) == ((0.2,) * 3, "s/image")
    assert figures["slow"].less_is_better
    assert figures["quick against slow"].median == 4, "a ratio says how many times as fast, also of times"


class LimitedSuite(FakeSuite):
    reads_as = "time"
    at_most = {"slow": 0.1}  # noqa: RUF012

    def ratios(self):
        return [Ratio("slow: times as long as quick", "quick", "slow", at_most=5)]


def test_times_and_ratios_have_limits(clock, tmp_path):
    figures = run(LimitedSuite(clock), tmp_path)
    assert (figures["quick"].at_most, figures["slow"].at_most) == (None, 0.1)
    ratio = figures["slow: times as long as quick"]
    assert (ratio.median, ratio.at_most, ratio.less_is_better) == (4, 5, True)


def test_what_cannot_be_measured_is_a_note_and_the_rest_goes_on(clock):
    broken, whole = FakeSuite(clock, fails=True), FakeSuite(clock)
    figures, notes = benchmarking.run_suites([broken, whole], repeats=1, round_sec=0.1)
    assert notes == ("fake: not measured: no such machine",)
    assert [figure.name for figure in figures] == ["quick", "slow", "quick against slow", "size"]
    assert broken.closed
    assert whole.closed
    assert not whole.folder.exists()


def test_a_flag_that_cannot_be_costs_no_suite_that_has_run(clock):
    class Unfit(FakeSuite):
        def prepare(self, folder):
            raise ConfigError("no such model")

    figures, notes = benchmarking.run_suites([FakeSuite(clock), Unfit(clock)], repeats=1, round_sec=0.1)
    assert len(figures) == 4
    assert notes == ("fake: not measured: no such model",)
    with pytest.raises(ConfigError, match="no such model"):
        benchmarking.run_suites([Unfit(clock)], repeats=1, round_sec=0.1)


def _burn():
    while time.process_time() < 0.3:
        pass
    time.sleep(60)


def test_cpu_time_of_running_workers_counts():
    before = benchmarking.cpu_seconds()
    worker = multiprocessing.get_context("fork").Process(target=_burn, daemon=True)
    worker.start()
    deadline = time.monotonic() + 30
    while (spent := benchmarking.cpu_seconds() - before) < 0.25 and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.kill()
    worker.join()
    assert spent >= 0.25


def test_spread_is_the_middle_half():
    figure = Figure("s", "f", "x", (1.0, 2.0, 3.0, 4.0, 100.0))
    assert figure.median == 3
    assert figure.spread == (2, 4)


def result(*figures, cores=2, notes=()):
    about = benchmark_report.describe_run("python -m some.benchmark", {"repeats": 3, "suites": ("a", "b")})
    about["machine"]["cores"] = cores
    return Result(about, figures, notes)


def test_a_result_survives_the_file(tmp_path):
    path = str(tmp_path / "new" / "result.json")
    figures = (Figure("s", "f", "x", (1.0, 2.0), (3.0, 4.0), at_least=1.0), Figure("s", "g", "KB", (7.0,)))
    written = result(*figures, notes=("a note",))
    benchmark_report.write_result(path, written)
    read = benchmark_report.read_result(path)
    assert read.figures == figures
    assert read.notes == ("a note",)
    assert read.about == json.loads(json.dumps(written.about))
    text = path.replace(".json", ".md")
    assert pathlib.Path(text).read_text() == benchmark_report.format_result(written)


def test_a_result_says_on_what_it_was_measured():
    text = benchmark_report.format_result(result(Figure("s", "f", "x", (1.0,))))
    about = benchmark_report.describe_run("c", {})
    for part in (about["commit"][:12], about["machine"]["processor"], "numpy", "repeats=3", "python -m some.benchmark"):
        assert part in text


def test_the_table_says_whether_an_aim_is_reached():
    reached = Figure("s", "f", "x", (4.0, 5.0, 6.0), at_least=4.5)
    missed = Figure("s", "g", "%", (4.0, 5.0, 6.0), at_most=4.5)
    lines = benchmark_report.format_table((reached, missed)).splitlines()
    assert lines[2] == "| s | f | 5 | 4.5 to 5.5 | x |  | at least 4.5: yes |"
    assert lines[3] == "| s | g | 5 | 4.5 to 5.5 | % |  | at most 4.5: **no** |"


@pytest.mark.parametrize(
    ("values", "less_is_better", "verdict"),
    [
        ((20.0, 21.0, 22.0), False, "better"),
        ((20.0, 21.0, 22.0), True, "worse"),
        ((1.0, 2.0, 3.0), False, "worse"),
        ((1.0, 2.0, 3.0), True, "better"),
        ((8.0, 10.4, 30.0), False, ""),
    ],
)
def test_a_difference_within_the_spread_is_no_verdict(values, less_is_better, verdict):
    old = Figure("s", "f", "images/s", (9.0, 10.0, 11.0), less_is_better=less_is_better)
    new = Figure("s", "f", "images/s", values, less_is_better=less_is_better)
    last = benchmark_report.compare(result(new), result(old)).splitlines()[-1]
    assert last.endswith(f"| {new.median / 10:.2f} | {verdict} |")


def test_a_comparison_names_another_machine_and_leaves_out_what_is_new():
    new = result(Figure("s", "f", "x", (1.0,)), Figure("s", "new", "x", (1.0,)))
    text = benchmark_report.compare(new, result(Figure("s", "f", "x", (1.0,)), cores=64))
    assert "another machine" in text
    assert "64 cores" in text
    assert "| new |" not in text


def test_a_comparison_of_other_suites_says_so():
    text = benchmark_report.compare(result(Figure("s", "f", "x", (1.0,))), result(Figure("t", "f", "x", (1.0,))))
    assert text.endswith("\nno figure stands in both")


class FakeLoader(contextlib.AbstractContextManager):
    def __init__(self, clock):
        self.clock, self.is_open = clock, False

    def __enter__(self):
        self.clock.calls.append("open")
        self.is_open = True

    def __exit__(self, *error):
        self.clock.calls.append("close")
        self.is_open = False

    def __call__(self):
        assert self.is_open
        self.clock.now += 1.0
        return 1


class LoaderSuite(FakeSuite):
    def variants(self):
        return {"loader": FakeLoader(self.clock), "plain": self.clock.work("plain", seconds=1.0)}

    def ratios(self):
        return []


def test_a_loader_is_open_only_while_it_is_timed(clock, tmp_path):
    run(LoaderSuite(clock), tmp_path, repeats=2, round_sec=0.5)
    assert clock.calls == ["open", "close", "plain", "open", "close", "plain", "plain", "open", "close"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"figures": [], "notes": []}',
        '{"figures": [{}], "notes": [], "about": {}}',
        '{"figures": [], "notes": [], "about": {}}',
    ],
)
def test_a_file_that_is_no_result_is_an_error(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not a benchmark's result"):
        benchmark_report.read_result(str(path))


@pytest.mark.parametrize("values", [[], ["fast"]])
def test_a_result_without_numbers_is_an_error(tmp_path, values):
    path = tmp_path / "result.json"
    benchmark_report.write_result(str(path), result(Figure("s", "f", "x", (1.0,))))
    data = json.loads(path.read_text())
    data["figures"][0]["values"] = values
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="not a benchmark's result"):
        benchmark_report.read_result(str(path))


def test_a_comparison_says_what_else_differs():
    old, new = (result(Figure("s", "f", "x", (1.0,)), Figure("s", name, "x", (1.0,))) for name in ("old", "new"))
    old.about["flags"]["repeats"] = 9
    text = benchmark_report.compare(new, old)
    assert "other flags there: repeats=9" in text
    assert "other versions" not in text
    assert text.endswith("in one of the two only: s: new, s: old")


def test_paths_are_checked_before_the_long_measuring(tmp_path):
    def measure():
        raise AssertionError("measured")

    with pytest.raises(ConfigError, match="ends in"):
        benchmark_report.publish(measure, out=str(tmp_path / "result.txt"), baseline=None)
    with pytest.raises(OSError, match=r"none\.json"):
        benchmark_report.publish(measure, out=None, baseline=str(tmp_path / "none.json"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        benchmark_report.publish(measure, out=str(tmp_path / "file" / "result.json"), baseline=None)
