r"""Writes the README's table of measured figures from results of the benchmarks.

    python -m hpa_proto.benchmark_table benchmarks README.md

Takes every .json of the folder, written by --out of a benchmark, and of each the figures that have an aim. They go between the
two comments `<!-- benchmarks -->` and `<!-- end of benchmarks -->` of the page.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hpa_proto import benchmark_report, storage
from hpa_proto.errors import ConfigError

_START, _END = "<!-- benchmarks -->", "<!-- end of benchmarks -->"


def format_results(folder: str) -> str:
    """Writes the figures that have an aim, of all results of a folder, as Markdown.

    Raises:
      ConfigError: there is no result, or a file is none.
    """
    names = [name.removesuffix(".json") for name in storage.list_files(folder) if name.endswith(".json")]
    if not names:
        raise ConfigError(f"{folder}: no result in it; make one with `python -m beam_jobs.benchmark --out=...`")
    parts = []
    for name in names:
        result = benchmark_report.read_result(storage.join(folder, f"{name}.json"))
        about = result.about
        commit, *changes = about["commit"].split(maxsplit=1)
        parts.append(
            f"`{about['command']}` on {about['date'][:10]}, commit {' '.join([commit[:7], *changes])}, "
            f"{benchmark_report.format_devices(about['machine'])}, load before {about['load_average']} "
            f"([flags, all figures and what they were measured on]({os.path.basename(folder.rstrip('/'))}/{name}.md)):"
        )
        aimed = (figure for figure in result.figures if (figure.at_least, figure.at_most) != (None, None))
        parts.append(benchmark_report.format_table(tuple(aimed)))
    return "\n\n".join(parts)


def replace_section(page: str, section: str) -> str:
    """Puts a section between the two comments of a page.

    Raises:
      ConfigError: the page lacks them.
    """
    before, start, rest = page.partition(_START)
    _, end, after = rest.partition(_END)
    if not start or not end:
        raise ConfigError(f"no place for the figures: the page needs the lines {_START} and {_END}")
    return f"{before}{_START}\n{section}\n{_END}{after}"


def main(argv: Sequence[str]) -> int:
    """Writes the table; returns the exit status."""
    if len(argv) != 3:
        print(__doc__)
        return 0 if "--help" in argv else 1
    _, folder, path = argv
    try:
        storage.write_text(path, replace_section(storage.read_text(path), format_results(folder)))
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
