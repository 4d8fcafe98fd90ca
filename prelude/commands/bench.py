"""``prelude bench WHAT``: one run in this process; `prelude sweep bench-WHAT` has many."""

import importlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from prelude.commands.parser import CommandParser
from prelude.conf.command import BENCH_ENGINE, BENCH_PRICES, BENCH_SERVE, Command


class Bench(NamedTuple):
    module: str
    command: Command
    summary: str
    examples: tuple[str, ...]


BENCHES = {
    "serve": Bench(
        "prelude.bench.serve",
        BENCH_SERVE,
        "Load a running OpenAI-compatible server and report its latencies and throughput.",
        (
            "prelude bench serve workload=smoke",
            "prelude bench serve base_url=http://127.0.0.1:9000/v1 rate=4 num_requests=500",
        ),
    ),
    "engine": Bench(
        "prelude.bench.engine",
        BENCH_ENGINE,
        "Time the engine's steps in this process against the machine's floor.",
        (
            "prelude bench engine",
            "prelude bench engine model=qwen3_0_6b workload=full",
        ),
    ),
    "prices": Bench(
        "prelude.bench.prices",
        BENCH_PRICES,
        "Hold the price of every launch of a mixed load against what it took.",
        (
            "prelude bench prices",
            "prelude bench prices model=qwen3_0_6b bench.seconds=120 bench.hold_s=10",
        ),
    ),
}


def run(argv: list[str]) -> int:
    if not argv or argv[0] not in BENCHES:
        return _usage(argv)
    name, bench = argv[0], BENCHES[argv[0]]
    parser = CommandParser(
        f"bench {name}", bench.summary, command=bench.command, examples=bench.examples
    )
    args = parser.parse_intermixed_args(argv[1:])

    from prelude.conf.load import load

    config: Any = load(
        bench.command, bench.command.schema, args.overrides, config_dirs=args.config_dir
    )
    module = importlib.import_module(bench.module)
    cast(Callable[[Any], dict[str, Any]], module.run)(config)
    return 0


def _usage(argv: list[str]) -> int:
    is_help = bool(argv) and argv[0] in ("-h", "--help")
    out = sys.stdout if is_help else sys.stderr
    if argv and not is_help:
        print(f"prelude: error: bench {argv[0]}: unknown benchmark", file=out)
    print("usage: prelude bench NAME [GROUP=OPTION | KEY=VALUE ...]\n", file=out)
    for name, bench in BENCHES.items():
        print(f"  {name:<8}{bench.summary}", file=out)
    print("\nprelude bench NAME --help lists the groups and keys that NAME takes.", file=out)
    return 0 if is_help else 2
