"""``prelude version``."""

from prelude import __version__
from prelude.commands.parser import CommandParser


def run(argv: list[str]) -> int:
    CommandParser("version", "Print the version of Prelude.").parse_args(argv)
    print(__version__)
    return 0
