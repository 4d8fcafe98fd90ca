"""``prelude serve``: the HTTP server and its engine."""

from prelude.commands.parser import CommandParser
from prelude.conf.command import ENGINE
from prelude.conf.schema import LoadFormat, ModelConfig
from prelude.models.paths import resolve_model_path, tokenizer_folder

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
    configure_logging(config.log.level, config.log.format.value)
    _check_paths(config.model)

    from prelude.server.main import serve

    return serve(config)


def _check_paths(model: ModelConfig) -> None:
    """A mistyped path is worth saying before a process is started for it."""
    if model.load_format is not LoadFormat.random:
        resolve_model_path(model.path)
    tokenizer_folder(model)
