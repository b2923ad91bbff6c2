"""What every main of this package shares: how a command line becomes flag values."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from hpa_proto.errors import ConfigError


def parse_flags(values: flags.FlagValues, argv: Sequence[str], *, module: str, takes_names: bool = False) -> list[str]:
    """Sets a command's flags from a command line, after setting them back to their defaults.

    Args:
      values: the command's own flags.
      argv: the command line, the program's name first.
      module: the command, as trainer.train, for the error.
      takes_names: what is not a flag is taken, before and after the flags.

    Returns:
      What is not a flag; empty unless `takes_names`.

    Raises:
      ConfigError: a flag that is not known, without a value or of another type; a name that is not taken.
    """
    values.unparse_flags()
    for name in values:
        values[name].unparse()
    values.set_gnu_getopt(takes_names)
    try:
        rest = values(list(argv))
    except flags.Error as error:
        raise ConfigError(f"{error} (python -m {module} --help lists all flags)") from error
    if len(rest) > 1 and not takes_names:
        raise ConfigError(f"{rest[1]!r} is not a flag; all flags start with --")
    return rest[1:]
