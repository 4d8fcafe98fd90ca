"""Argument parsing that all sub-commands share: overrides anywhere among the flags, and a help
text that lists the groups and keys of the command's schema.
"""

import argparse
from collections.abc import Sequence
from importlib.resources import files

from prelude.conf.command import Command
from prelude.conf.keys import list_keys, show


class CommandParser(argparse.ArgumentParser):
    """``prelude NAME``. With a ``command`` it takes overrides and ``--config-dir``; the keys and
    groups of ``also`` are listed beside its own."""

    def __init__(
        self,
        name: str,
        description: str,
        *,
        command: Command | None = None,
        also: Command | None = None,
        examples: Sequence[str] = (),
    ) -> None:
        super().__init__(
            prog=f"prelude {name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._commands = [item for item in (command, also) if item is not None]
        self._examples = examples
        if command is not None:
            self.add_argument(
                "overrides",
                nargs="*",
                metavar="GROUP=OPTION | KEY=VALUE",
                help="what differs from the defaults; the last one wins",
            )
            self.add_argument(
                "--config-dir",
                action="append",
                default=[],
                metavar="FOLDER",
                help="folder with more options for the groups, as GROUP/OPTION.yaml",
            )

    def format_help(self) -> str:
        # Made only when asked for: it reads the schema's source.
        self.epilog = self._epilog()
        return super().format_help()

    def _epilog(self) -> str:
        sections = []
        if self._examples:
            sections += ["examples:", *(f"  {line}" for line in self._examples), ""]
        if self._commands:
            groups = [line for command in self._commands for line in _group_lines(command)]
            keys = [line for command in self._commands for line in _key_lines(command.schema)]
            sections += ["groups:", *groups, "", "keys:", *keys]
        return "\n".join(sections)


def options(folder: str) -> list[str]:
    """The options of the config group in ``folder``, below ``prelude.conf``."""
    names = (item.name for item in files("prelude.conf").joinpath(folder).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _group_lines(command: Command) -> list[str]:
    return [
        f"  {name + '=':<14}{' | '.join(options(group.partition('@')[0]))}"
        for name, group in command.groups.items()
    ]


def _key_lines(schema: type) -> list[str]:
    lines = []
    for key in list_keys(schema):
        text = f"  {key.name}={show(key.default)}"
        lines.append(f"{text:<38} {key.kind}{'; ' + key.help if key.help else ''}")
    return lines
