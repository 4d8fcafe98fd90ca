"""``prelude config``: what a command would run with, and why each value is what it is."""

from prelude.commands.parser import CommandParser
from prelude.conf.command import ENGINE
from prelude.conf.keys import list_keys, show

EXAMPLES = (
    "prelude config preset=latency server.port=9000",
    "prelude config model=qwen3_0_6b | grep model",
)


def run(argv: list[str]) -> int:
    parser = CommandParser(
        "config",
        "Print every key with its value and where the value came from. A line is itself an"
        " override.",
        command=ENGINE,
        examples=EXAMPLES,
    )
    parser.add_argument(
        "--reference",
        action="store_true",
        help="print instead every key's default, type and meaning, as a Markdown table",
    )
    args = parser.parse_intermixed_args(argv)
    if args.reference:
        print("\n".join(_reference()))
        return 0

    from prelude.conf.load import config_digest, explain, load_config

    values = explain(ENGINE, args.overrides, config_dirs=args.config_dir)
    digest = config_digest(load_config(args.overrides, config_dirs=args.config_dir))
    print(f"# digest {digest}")
    for value in values:
        print(f"{value.name + '=' + value.text:<48} # {value.origin}")
    return 0


def _reference() -> list[str]:
    rows = ["| key | default | type | meaning |", "|---|---|---|---|"]
    for key in list_keys(ENGINE.schema):
        cells = (f"`{key.name}`", show(key.default), key.kind, key.help)
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return rows
