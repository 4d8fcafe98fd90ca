"""``prelude generate``: one prompt in, its continuation on stdout as it is sampled."""

import sys
from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from prelude.commands.parser import CommandParser
from prelude.conf.command import ENGINE
from prelude.conf.keys import list_keys

if TYPE_CHECKING:
    from prelude.conf.schema import Config
    from prelude.llm import Prompt

EXAMPLES = (
    "prelude generate --chat -p 'What is 17 + 25?'",
    "prelude generate -p 'Once upon a time' sampling=greedy sampling.max_tokens=64",
    "prelude generate model.path=FOLDER < prompt.txt",
)


def run(argv: list[str]) -> int:
    parser = CommandParser(
        "generate",
        "Continue a prompt; the text goes to stdout as it is sampled.",
        command=ENGINE,
        examples=EXAMPLES,
    )
    parser.add_argument("-p", "--prompt", help="the prompt; default: all of stdin")
    parser.add_argument(
        "--chat", action="store_true", help="the prompt is a user's message: use the chat template"
    )
    args = parser.parse_intermixed_args(argv)

    from prelude.conf.load import load_config
    from prelude.conf.schema import LogLevel
    from prelude.logs import configure_logging

    config = load_config(args.overrides, config_dirs=args.config_dir)
    if config.log.level is LogLevel.INFO:
        config.log.level = LogLevel.WARNING  # who asks for a text wants no life-cycle lines
    configure_logging(config.log.level, config.log.format.value)
    text = args.prompt if args.prompt is not None else sys.stdin.read()
    if not text:
        raise ValueError("the prompt is empty; pass it with -p TEXT or on stdin")
    for piece in _stream(config, [{"role": "user", "content": text}] if args.chat else text):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def _stream(config: "Config", prompt: "Prompt") -> Iterator[str]:
    from prelude.llm import LLM

    llm = LLM(config.model.path, **_leaves(config))
    try:
        for chunk in llm.stream(prompt):
            yield chunk.text
    finally:
        llm.close()


def _leaves(config: "Config") -> dict[str, Any]:
    """The configuration as ``LLM`` takes it, without the path that it takes by itself."""
    values = {key.name: attrgetter(key.name)(config) for key in list_keys(ENGINE.schema)}
    del values["model.path"]
    return values
