"""Results of benchmarks: what they depend on, as JSON and Markdown, and one against an earlier one."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from hpa_proto import json_text, storage
from hpa_proto.benchmarking import Figure, num_cores
from hpa_proto.errors import ConfigError
from hpa_proto.redaction import redact

_PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "apache-beam",
    "tensorflow",
    "keras",
    "jax",
    "torch",
    "grain",
    "webdataset",
)


@dataclasses.dataclass(frozen=True)
class Result:
    """One run of a benchmark.

    Attributes:
      about: of `describe_run`.
      figures: measured.
      notes: what could not be measured and what a reader must know.
    """

    about: dict[str, Any]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


def describe_run(command: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a result depends on beside the code: machine, versions, commit, flags. JSON values."""
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": _machine(),
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), **_versions()},
        "flags": {name: redact(value) if isinstance(value, str) else value for name, value in flags.items()},
    }


def _commit() -> str:
    root = pathlib.Path(__file__).resolve().parents[1]
    git = ["git", "--no-optional-locks", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + (" with changes" if changed else "")


def _machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    accelerators: list[str] = []
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        accelerators = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")
    return {
        "processor": processor,
        "cores": num_cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.system(),
        "accelerators": [name for name in accelerators if name],
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def publish(measure: Callable[[], Result], *, out: str | None, baseline: str | None) -> str:
    """Measures, writes the result where it is wanted and returns what to print.

    Args:
      measure: runs the benchmark; called after the paths were checked.
      out: JSON to write, with the table beside it as .md; None: none.
      baseline: JSON of an earlier result to compare with; None: none.

    Raises:
      ConfigError: a path that cannot be.
      OSError: no such baseline; no place for the result.
    """
    if out and not out.endswith(".json"):
        raise ConfigError(f"--out={out}: give a name that ends in .json")
    if out and not storage.exists(out):
        # Before minutes of measuring, not after.
        storage.write_text(out, "")
        storage.remove(out)
    earlier = read_result(baseline) if baseline else None
    result = measure()
    if out:
        write_result(out, result)
    return format_result(result) + (f"\n{compare(result, earlier)}\n" if earlier else "")


def write_result(path: str, result: Result) -> None:
    """Writes a result as JSON to `path`, which ends in .json, and as Markdown beside it."""
    storage.write_text(path, json.dumps(dataclasses.asdict(result), indent=1) + "\n")
    storage.write_text(path.removesuffix(".json") + ".md", format_result(result))


def read_result(path: str) -> Result:
    """Reads the JSON of `write_result`.

    Raises:
      ConfigError: the file is no result.
      OSError: there is no such file.
    """
    try:
        data = json_text.parse(storage.read_text(path))
        figures = [
            Figure(**{**figure, "values": tuple(figure["values"]), "cpu": tuple(figure["cpu"])})
            for figure in data["figures"]
        ]
        result = Result(dict(data["about"]), tuple(figures), tuple(data["notes"]))
        # What is to be compared or printed later must have all that takes.
        format_result(result)
        compare(result, result)
        return result
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a benchmark's result ({error!r}); give the JSON that --out wrote") from error


def format_result(result: Result) -> str:
    """Writes a result as Markdown: where and what, the table, the notes."""
    about, machine = result.about, result.about["machine"]
    lines = [
        f"`{about['command']}`, {about['date']}, commit {about['commit']}",
        "",
        f"{format_devices(machine)}, {machine['memory_gb']:g} GB, {machine['system']}; load before: "
        f"{about['load_average']}",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        "",
        "Flags: " + " ".join(f"--{name}={_flag(value)}" for name, value in about["flags"].items() if value is not None),
        "",
        format_table(result.figures),
    ]
    if result.notes:
        lines += ["", *(f"- {note}" for note in result.notes)]
    return "\n".join(lines) + "\n"


def describe_machine() -> str:
    """Names this machine's processor, accelerators and number of cores, and the commit."""
    return f"{format_devices(_machine())}; commit {_commit()}"


def format_devices(machine: Mapping[str, Any]) -> str:
    """Names processor, accelerators and number of cores of `describe_run`'s machine."""
    return "; ".join([", ".join([machine["processor"], *machine["accelerators"]]), f"{machine['cores']} cores"])


def format_table(figures: tuple[Figure, ...]) -> str:
    """Writes figures as a Markdown table: median, middle half of the rounds, CPU time a unit, aim."""
    lines = [
        "| suite | what | median | middle half | unit | CPU | aim |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for figure in figures:
        low, high = figure.spread
        lines.append(
            f"| {figure.suite} | {figure.name} | {_number(figure.median)} | {_number(low)} to {_number(high)} "
            f"| {figure.unit} | {_cpu(figure)} | {_aim(figure)} |"
        )
    return "\n".join(lines)


def _flag(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _cpu(figure: Figure) -> str:
    if not figure.cpu:
        return ""
    return f"{_number(statistics.median(figure.cpu))} {'x' if figure.unit == 'x' else 'ms'}"


def _aim(figure: Figure) -> str:
    if figure.at_least is not None:
        return f"at least {figure.at_least:g}: {'yes' if figure.median >= figure.at_least else '**no**'}"
    if figure.at_most is not None:
        return f"at most {figure.at_most:g}: {'yes' if figure.median <= figure.at_most else '**no**'}"
    return ""


def compare(new: Result, old: Result) -> str:
    """Compares two results, figure by figure, as Markdown.

    "better" and "worse" stand only where the middle halves of the rounds do not meet.
    """
    lines = [f"against {old.about['date']}, commit {old.about['commit']}"]
    if new.about["machine"] != old.about["machine"]:
        lines.append(f"another machine: {format_devices(old.about['machine'])}")
    for kind in ("flags", "versions"):
        if others := _differences(new.about[kind], old.about[kind]):
            lines.append(f"other {kind} there: {', '.join(others)}")
    lines += [
        "",
        "| suite | what | before | now | unit | now / before | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    before = {(figure.suite, figure.name, figure.unit): figure for figure in old.figures}
    shared = [figure for figure in new.figures if (figure.suite, figure.name, figure.unit) in before]
    if not shared:
        return "\n".join([*lines[:-2], "no figure stands in both"])
    after = {(figure.suite, figure.name, figure.unit) for figure in new.figures}
    alone = [f"{suite}: {name}" for suite, name, unit in [*after - set(before), *set(before) - after]]
    for figure in shared:
        earlier = before[figure.suite, figure.name, figure.unit]
        ratio = f"{figure.median / earlier.median:.2f}" if earlier.median else ""
        lines.append(
            f"| {figure.suite} | {figure.name} | {_number(earlier.median)} | {_number(figure.median)} | {figure.unit} "
            f"| {ratio} | {_verdict(figure, earlier)} |"
        )
    if alone:
        lines += ["", f"in one of the two only: {', '.join(sorted(alone))}"]
    return "\n".join(lines)


def _differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Lists what differs, with the old value; where a result is kept plays no part."""
    names = sorted({*new, *old} - {"out", "baseline"})
    return [f"{name}={_flag(old.get(name))}" for name in names if _flag(new.get(name)) != _flag(old.get(name))]


def _verdict(new: Figure, old: Figure) -> str:
    if new.spread[0] <= old.spread[1] and old.spread[0] <= new.spread[1]:
        return ""
    return "better" if (new.median < old.median) == new.less_is_better else "worse"
