"""``prelude batch``: a file of requests in, a file of answers out."""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prelude.commands.parser import CommandParser
from prelude.conf.command import ENGINE

if TYPE_CHECKING:
    from argparse import Namespace

    from prelude.batch.run import Summary
    from prelude.conf.schema import Config

EXAMPLES = (
    "prelude batch requests.jsonl answers.jsonl",
    "prelude batch requests.jsonl answers.jsonl model.path=FOLDER",
    "PRELUDE_API_KEY=KEY prelude batch requests.jsonl answers.jsonl --url http://HOST:8000",
)
_REMOTE_CONCURRENCY = 64


def run(argv: list[str]) -> int:
    parser = CommandParser(
        "batch",
        "Answer every line of INPUT, in the format of OpenAI's batch files, into OUTPUT.\n"
        "What OUTPUT has already is not asked again, so an interrupted run can be repeated.",
        command=ENGINE,
        examples=EXAMPLES,
    )
    parser.usage = "prelude batch INPUT OUTPUT [options] [GROUP=OPTION | KEY=VALUE ...]"
    parser.add_argument("--url", help="ask this server instead of an engine of our own")
    parser.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="requests at once; default: twice the engine's slots, or 64 with --url",
    )
    args = parser.parse_intermixed_args(argv)
    files = [name for name in args.overrides if "=" not in name]
    if len(files) != 2:
        parser.error("name an input file and an output file")
    if args.concurrency is not None and args.concurrency < 1:
        parser.error("--concurrency must be at least 1")
    overrides = [item for item in args.overrides if "=" in item]
    if args.url is not None and overrides:
        parser.error(f"{overrides[0]} is for an engine of our own; it has no effect with --url")

    from prelude.conf.load import load_config
    from prelude.conf.schema import LogLevel
    from prelude.logs import configure_logging

    config = load_config(overrides, config_dirs=args.config_dir)
    if config.log.level is LogLevel.INFO:
        config.log.level = LogLevel.WARNING  # life-cycle lines would tear the progress bar apart
    configure_logging(config.log.level, config.log.format.value)
    start_s = time.monotonic()
    summary = asyncio.run(_run(Path(files[0]), Path(files[1]), args, config))
    print(_said(summary, time.monotonic() - start_s), file=sys.stderr)
    return 1 if summary.failed else 0


async def _run(source: Path, path: Path, args: "Namespace", config: "Config") -> "Summary":
    from prelude.batch.run import Batch, all_done
    from prelude.batch.target import HttpTarget, own_engine
    from prelude.engine.progress import progress_bar

    try:  # files that cannot be used are errors before an engine starts
        before = all_done(source, path)
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    if before is not None:
        return before
    if args.url is not None:
        key = os.environ.get("PRELUDE_API_KEY")
        remote = HttpTarget(args.url, args.concurrency or _REMOTE_CONCURRENCY, key)
        async with remote as target:
            with progress_bar() as report:
                return await Batch(source, path, target).run(report)
    async with own_engine(config, args.concurrency) as own:
        with progress_bar() as report:
            return await Batch(source, path, own).run(report)


def _said(summary: "Summary", seconds: float) -> str:
    text = f"{summary.answered} answered, {summary.failed} failed"
    if summary.skipped:
        text += f", {summary.skipped} done before"
    tokens = f"{summary.prompt_tokens} prompt and {summary.output_tokens} output tokens"
    return f"{text} in {seconds:.1f} s ({tokens})"
