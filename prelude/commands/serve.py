"""``prelude serve``: the HTTP server and its engine."""

from prelude.commands.parser import CommandParser
from prelude.conf.command import ENGINE

EXAMPLES = (
    "prelude serve",
    "prelude serve model.path=FOLDER server.port=9000",
    "prelude serve preset=latency runner.threads=4",
)


def run(argv: list[str]) -> int:
    parser = CommandParser(
        "serve",
        "Answer OpenAI-compatible requests over HTTP until SIGINT or SIGTERM.",
        command=ENGINE,
        examples=EXAMPLES,
    )
    args = parser.parse_intermixed_args(argv)

    from prelude.conf.load import load_config
    from prelude.logs import configure_logging

    config = load_config(args.overrides, config_dirs=args.config_dir)
    configure_logging(config.log.level)

    from prelude.server.main import serve

    return serve(config)
