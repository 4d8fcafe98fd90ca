"""``prelude keys ACTION``: make API keys, list them, disable them. A key is shown once, when it is
made; the file keeps its hash. A running server reads the file again within a second.
"""

import re
import sys
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from prelude.commands.parser import CommandParser
from prelude.conf.command import ENGINE
from prelude.server.keys_file import LIMITS, KeyEntry, hash_key, new_key, read_keys, write_keys
from prelude.server.principal import SCOPES
from prelude.types.service import SERVICE_CLASSES

_DAYS = re.compile(r"(\d{1,5})d")
_EXAMPLES = (
    "prelude keys create team-a server.auth.keys=keys.yaml --requests-per-min 60",
    "prelude keys create ops --scopes admin server.auth.keys=keys.yaml",
    "prelude keys disable team-a server.auth.keys=keys.yaml",
)


class Action(NamedTuple):
    summary: str
    takes_name: bool
    run: Callable[[Path, Namespace], str]


def run(argv: list[str]) -> int:
    if not argv or argv[0] not in ACTIONS:
        return _usage(argv)
    name, action = argv[0], ACTIONS[argv[0]]
    args = _parser(name, action).parse_intermixed_args(argv[1:])

    from prelude.conf.load import load_config

    if action.takes_name:
        if not args.overrides or "=" in args.overrides[0]:
            raise ValueError(f"keys {name}: the key's name is missing: it comes first")
        args.name = args.overrides.pop(0)
    file = load_config(args.overrides, config_dirs=args.config_dir).server.auth.keys
    if file is None:
        raise ValueError(f"keys {name}: say which file, as in server.auth.keys=keys.yaml")
    print(action.run(Path(file).expanduser(), args))
    return 0


def _parser(name: str, action: Action) -> CommandParser:
    title = f"keys {name} NAME" if action.takes_name else f"keys {name}"
    parser = CommandParser(
        title,
        f"{action.summary}. The file is server.auth.keys.",
        command=ENGINE,
        examples=_EXAMPLES,
    )
    if name == "create":
        _add_fields(parser)
    return parser


def _add_fields(parser: CommandParser) -> None:
    parser.add_argument(
        "--class",
        dest="service_class",
        choices=SERVICE_CLASSES,
        help="its requests' class, and the most that they may ask for",
    )
    parser.add_argument(
        "--priority", type=int, default=0, help="the most urgent it may ask for; smaller is more"
    )
    parser.add_argument(
        "--scopes", default="infer", help=f"comma-separated, of {', '.join(SCOPES)}"
    )
    for limit in LIMITS:
        kind = float if limit.endswith("_ms") else int
        parser.add_argument(
            f"--{limit.replace('_', '-')}",
            type=kind,
            help=f"instead of server.limits.{limit}; 0: none",
        )
    parser.add_argument("--expires", help="after so many days, as 90d, or at a time, as 2030-01-31")


def _create(path: Path, args: Namespace) -> str:
    entries = _read(path)
    if any(entry.name == args.name and not entry.disabled for entry in entries):
        print(f"prelude: {args.name} has one more key now: it shares all limits", file=sys.stderr)
    token, now = new_key(), datetime.now(UTC).replace(microsecond=0)
    entry = msgspec.convert(
        {
            "name": args.name,
            "sha256": hash_key(token),
            "class": args.service_class,
            "priority": args.priority,
            "scopes": args.scopes.split(","),
            "created": now,
            "expires": _expires(args.expires, now),
            **{limit: getattr(args, limit) for limit in LIMITS},
        },
        KeyEntry,
    )
    write_keys(path, [*entries, entry])
    return token


def _list(path: Path, args: Namespace) -> str:
    rows: list[tuple[str, ...]] = [
        ("name", "state", "class", "scopes", "limits", "created", "expires", "sha256")
    ]
    rows += [_row(entry) for entry in read_keys(path)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _row(entry: KeyEntry) -> tuple[str, ...]:
    limits = ((limit, getattr(entry, limit)) for limit in LIMITS)
    is_over = entry.expires is not None and entry.expires <= datetime.now(UTC)
    return (
        entry.name,
        "disabled" if entry.disabled else "expired" if is_over else "active",
        entry.service_class or "-",
        ",".join(entry.scopes),
        ",".join(f"{limit}={value:g}" for limit, value in limits if value is not None) or "-",
        f"{entry.created:%F}" if entry.created else "-",
        f"{entry.expires:%F %R}" if entry.expires else "-",
        f"{entry.sha256[:8]}...",
    )


def _disable(path: Path, args: Namespace) -> str:
    entries = read_keys(path)
    num = sum(entry.name == args.name and not entry.disabled for entry in entries)
    if not num:
        raise ValueError(f"{path}: no active key is named {args.name}")
    changed = (
        msgspec.structs.replace(entry, disabled=True) if entry.name == args.name else entry
        for entry in entries
    )
    write_keys(path, list(changed))
    return f"{args.name}: {num} disabled"


def _read(path: Path) -> list[KeyEntry]:
    return read_keys(path) if path.exists() else []


def _expires(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    if days := _DAYS.fullmatch(text):
        return now + timedelta(days=int(days[1]))
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"--expires {text}: say 90d or 2030-01-31 or 2030-01-31T12:00Z") from error
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


ACTIONS = {
    "create": Action("Make an API key and print it, this once", True, _create),
    "list": Action("List the keys: names, limits, never the keys", False, _list),
    "disable": Action("Disable every key of that name", True, _disable),
}


def _usage(argv: list[str]) -> int:
    is_help = bool(argv) and argv[0] in ("-h", "--help")
    out = sys.stdout if is_help else sys.stderr
    if argv and not is_help:
        print(f"prelude: error: keys {argv[0]}: unknown action", file=out)
    print("usage: prelude keys ACTION [NAME] server.auth.keys=FILE [KEY=VALUE ...]\n", file=out)
    for name, action in ACTIONS.items():
        print(f"  {name:<9}{action.summary}", file=out)
    return 0 if is_help else 2
