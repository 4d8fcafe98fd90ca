"""``prelude cache WHAT``: what starts leave behind for the next one, and how to carry it along."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from prelude.commands.parser import CommandParser
from prelude.conf.command import ENGINE

_MIB = 2**20
_DAY_S = 86_400


class Action(NamedTuple):
    summary: str
    takes_file: bool
    run: Callable[[Path, Path], str]


def run(argv: list[str]) -> int:
    if not argv or argv[0] not in ACTIONS:
        return _usage(argv)
    name, rest = argv[0], argv[1:]
    action = ACTIONS[name]
    file = Path(rest.pop(0)) if action.takes_file and rest and _is_file(rest[0]) else None
    parser = CommandParser(
        f"cache {name} FILE" if action.takes_file else f"cache {name}",
        f"{action.summary}. The folder is graphs.cache_dir.",
        command=ENGINE,
    )
    args = parser.parse_intermixed_args(rest)
    if action.takes_file and file is None:
        parser.error("FILE is missing: the archive's path comes first")

    from prelude.conf.load import load_config
    from prelude.graphs.pool import cache_dir

    folder = cache_dir(load_config(args.overrides, config_dirs=args.config_dir).graphs)
    print(action.run(folder, file or Path()))
    return 0


def _is_file(word: str) -> bool:
    return not word.startswith("-") and "=" not in word


def _export(folder: Path, file: Path) -> str:
    from prelude.graphs.artifacts import export_artifacts

    files = export_artifacts(folder, file).files
    return f"{file}: {len(files)} files, {sum(f.num_bytes for f in files) / _MIB:.1f} MiB"


def _import(folder: Path, file: Path) -> str:
    from prelude.graphs.artifacts import import_artifacts

    return f"{folder}: {len(import_artifacts(folder, file).files)} files from {file}"


def _list(folder: Path, _: Path) -> str:
    from prelude.graphs.artifacts import artifacts

    lines = [f"{'MiB':>8} {'days':>6}  in {folder}"]
    for path in artifacts(folder):
        state = path.stat()
        days = (time.time() - state.st_mtime) / _DAY_S
        lines.append(f"{state.st_size / _MIB:>8.2f} {days:>6.1f}  {path.relative_to(folder)}")
    return "\n".join(lines)


def _clear(folder: Path, _: Path) -> str:
    from prelude.graphs.artifacts import clear_artifacts

    return f"{folder}: {clear_artifacts(folder) / _MIB:.1f} MiB freed"


ACTIONS = {
    "export": Action("Write programs, kernels and profiles into one archive", True, _export),
    "import": Action("Take them from an archive made on a machine like this one", True, _import),
    "list": Action("List them", False, _list),
    "clear": Action("Remove them", False, _clear),
}


def _usage(argv: list[str]) -> int:
    is_help = bool(argv) and argv[0] in ("-h", "--help")
    out = sys.stdout if is_help else sys.stderr
    if argv and not is_help:
        print(f"prelude: error: cache {argv[0]}: unknown action", file=out)
    print("usage: prelude cache ACTION [FILE] [KEY=VALUE ...]\n", file=out)
    for name, action in ACTIONS.items():
        print(f"  {name:<8}{action.summary}", file=out)
    return 0 if is_help else 2
