"""Argument parsing that all sub-commands share: overrides anywhere among the flags, and a help
text that lists the groups and keys of the command's schema.
"""

import argparse
from collections.abc import Mapping, Sequence
from importlib.resources import files

from prelude.conf.keys import list_keys, show


class CommandParser(argparse.ArgumentParser):
    """``prelude NAME``. With a ``schema`` it takes overrides and ``--config-dir``."""

    def __init__(
        self,
        name: str,
        description: str,
        *,
        schema: type | None = None,
        groups: Mapping[str, str] | None = None,
        examples: Sequence[str] = (),
    ) -> None:
        super().__init__(
            prog=f"prelude {name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._schema = schema
        self._groups = groups if groups is not None else {}
        self._examples = examples
        if schema is not None:
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
        if self._groups:
            sections += ["groups:", *_group_lines(self._groups), ""]
        if self._schema is not None:
            sections += ["keys:", *_key_lines(self._schema)]
        return "\n".join(sections)


def engine_groups() -> dict[str, str]:
    """Name to folder of the groups that every engine configuration has."""
    groups = (
        "preset model runner attention graphs cache batcher sampling server log"  # reading order
    )
    return {name: name for name in groups.split()}


def options(folder: str) -> list[str]:
    """The options of the config group in ``folder``, below ``prelude.conf``."""
    names = (item.name for item in files("prelude.conf").joinpath(folder).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _group_lines(groups: Mapping[str, str]) -> list[str]:
    return [f"  {name + '=':<14}{' | '.join(options(folder))}" for name, folder in groups.items()]


def _key_lines(schema: type) -> list[str]:
    lines = []
    for key in list_keys(schema):
        text = f"  {key.name}={show(key.default)}"
        lines.append(f"{text:<38} {key.kind}{'; ' + key.help if key.help else ''}")
    return lines
