"""What every main of this package shares: from a command line to a config, from an error to one line and a status."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from absl import flags

from hpa_proto import redaction
from hpa_proto.errors import STATUS_OF_CTRL_C, ConfigError, DatasetError, explain

Config = TypeVar("Config")


def read_config(
    values: flags.FlagValues,
    argv: Sequence[str],
    kind: type[Config],
    *,
    module: str,
    required: Collection[str] = (),
    **given: Any,
) -> Config | None:
    """Makes the config that a command line asks for: each field from the flag of its name.

    Args:
      values: the command's own flags, "help" among them.
      argv: the command line, the program's name first.
      kind: a dataclass.
      module: the command, as trainer.predict, for the error.
      required: flags that must be given.
      **given: fields that are made otherwise: a function of the flags.

    Returns:
      The config; None where help is asked for.

    Raises:
      ConfigError: a flag that is not known, missing, without a value or of another type.
    """
    parse_flags(values, argv, module=module)
    if values.help:
        return None
    for name in required:
        if not values[name].value:
            raise ConfigError(f"--{name} is missing: {values[name].help}")
    names = {field.name for field in dataclasses.fields(kind)} - set(given)
    made = {name: make(values) for name, make in given.items()}
    return kind(**{name: values[name].value for name in names}, **made)


def run_main(
    argv: Sequence[str],
    make_config: Callable[[Sequence[str]], Config | None],
    body: Callable[[Config], str],
    *,
    values: flags.FlagValues,
    doc: str | None,
    errors: tuple[type[Exception], ...] = (),
) -> int:
    """Runs a command.

    Args:
      argv: the command line, the program's name first.
      make_config: None stands for help.
      body: does the work and returns the closing words.
      values: the command's own flags, for the help.
      doc: of the command's module, for the help.
      errors: beside the usual ones, what is told in one line instead of a traceback.

    Returns:
      The exit status: 1 after an error, 130 after Ctrl-C, each told in one line on stderr.
    """
    with redaction.redacted_output():
        try:
            config = make_config(argv)
            closing = f"{doc}\n{values.get_help()}" if config is None else body(config)
        except (ConfigError, DatasetError, OSError, *errors) as error:
            print(
                f"error: {explain(error, ((name, values[name].value, values[name].help) for name in values))}",
                file=sys.stderr,
            )
            return 1
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return STATUS_OF_CTRL_C
        print(closing)
        return 0


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
