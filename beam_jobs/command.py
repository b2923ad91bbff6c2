"""What every main of this package shares: flags of its own and Beam's, and errors a user reads in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from beam_jobs import local_worker
from hpa_proto import redaction
from hpa_proto.errors import STATUS_OF_CTRL_C, ConfigError, DatasetError, explain

CELLS_DIR = flags.DEFINE_string(
    "cells_dir", None, "Folder of the cell store, which beam_jobs.segment writes and beam_jobs.shard reads."
)
NUM_WORKERS = flags.DEFINE_integer("num_workers", 1, "Processes of the local runner.", 1)


def run_main(main: Callable[[list[str]], int | None]) -> None:
    """Parses flags, runs a main and exits with its status.

    Args:
      main: takes the flags that are not the job's own (Beam's); returns the exit status, None for 0. A ConfigError, a
        DatasetError or an OSError becomes one line on stderr and status 1, Ctrl-C one and status 130.
    """

    def guarded(argv: Sequence[str]) -> None:
        with redaction.redacted_output():
            try:
                status = main(list(argv[1:]))
            except (ConfigError, DatasetError, OSError) as error:
                given = flags.FLAGS.flags_by_module_dict().values()
                given = ((flag.name, flag.value, flag.help) for own in given for flag in own)
                print(f"error: {explain(error, given)}", file=sys.stderr)
                status = 1
            except KeyboardInterrupt:
                print("\nstopped; run the same command to go on", file=sys.stderr)
                status = STATUS_OF_CTRL_C
        sys.exit(status or 0)

    # What Beam says hides the job's progress bar and closing words.
    local_worker.quieten_beam()
    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        # Flags that absl does not know stay in argv: they are Beam's.
        return flags.FLAGS(argv, known_only=True)
    except flags.Error as error:
        print(f"error: {error}; see --help", file=sys.stderr)
        sys.exit(1)


def to_counts(name: str, pairs: Sequence[tuple[str, float]]) -> tuple[tuple[str, int], ...]:
    """Turns the numbers of `parse_pairs` into whole ones.

    Raises:
      ConfigError: one is not whole.
    """
    for key, number in pairs:
        if not number.is_integer():
            raise ConfigError(f"--{name}: {key}={number:g} is no whole number")
    return tuple((key, int(number)) for key, number in pairs)


def required(name: str, value: str | None) -> str:
    """Returns the value of a flag that must be given.

    Raises:
      ConfigError: it was not.
    """
    if not value:
        raise ConfigError(f"--{name} is needed; see --help")
    return value


def parse_pairs(name: str, texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Reads "train=12" style values of a list flag.

    Raises:
      ConfigError: a value is not of this form.
    """
    pairs = []
    for text in texts:
        key, mark, value = text.partition("=")
        try:
            pairs.append((key.strip(), float(value)))
        except ValueError:
            mark = ""
        if not mark:
            raise ConfigError(f"--{name}: {text!r} is not of the form name=number, as in train=12")
    return tuple(pairs)
