"""What every main of this package shares: how a command line becomes flag values."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from hpa_proto.errors import ConfigError


def parse_flags(values: flags.FlagValues, argv: Sequence[str], *, module: str) -> None:
    """Sets a command's flags from a command line, after setting them back to their defaults.

    Args:
      values: the command's own flags.
      argv: the command line, the program's name first.
      module: the command, as trainer.train, for the error.

    Raises:
      ConfigError: a flag that is not known, without a value or of another type.
    """
    values.unparse_flags()
    for name in values:
        values[name].unparse()
    try:
        rest = values(list(argv))
    except flags.Error as error:
        raise ConfigError(f"{error} (python -m {module} --help lists all flags)") from error
    if len(rest) > 1:
        raise ConfigError(f"{rest[1]!r} is not a flag; all flags start with --")
