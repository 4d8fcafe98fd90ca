"""``prelude config``: what a command would run with, and why each value is what it is."""

from prelude.commands.parser import CommandParser
from prelude.conf.command import ENGINE

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
    args = parser.parse_intermixed_args(argv)

    from prelude.conf.load import config_digest, explain, load_config

    values = explain(ENGINE, args.overrides, config_dirs=args.config_dir)
    digest = config_digest(load_config(args.overrides, config_dirs=args.config_dir))
    print(f"# digest {digest}")
    for value in values:
        print(f"{value.name + '=' + value.text:<48} # {value.origin}")
    return 0
