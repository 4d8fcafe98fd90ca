"""``prelude sweep TARGET``: many points of a configuration, in one table and one report."""

import sys
from collections.abc import Mapping

from prelude.commands.parser import CommandParser
from prelude.conf.command import SWEEP
from prelude.conf.sweep import SweepConfig
from prelude.sweep.targets import TARGETS

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "simulate": (
        "prelude sweep simulate sweep=policies",
        "prelude sweep simulate batcher.policy=fcfs,class_aware 'traffic.seed=range(0,5)'",
        "prelude sweep simulate 'batcher=glob(*)' mix=m1,m4 sweep.out=runs/mixes",
        "prelude sweep simulate sweep.search=optuna 'batcher.deep_share=interval(0.05,0.5)'"
        " batcher.policy=class_aware sweep.trials=50",
    ),
    "serve": (
        "prelude sweep serve batcher.policy=fcfs,class_aware workload=mix bench.rate=1,2,4",
        "prelude sweep serve model=tiny runner.max_seqs=8,16 workload=smoke bench.seed=1,2",
    ),
    "bench-serve": ("prelude sweep bench-serve rate=1,2,4,8",),
    "bench-engine": ("prelude sweep bench-engine runner.threads=1,2",),
    "bench-prices": ("prelude sweep bench-prices model=demo,tiny",),
}


def run(argv: list[str]) -> int:
    if not argv or argv[0] not in TARGETS:
        return _usage(argv)
    name, target = argv[0], TARGETS[argv[0]]
    parser = CommandParser(
        f"sweep {name}",
        f"Sweep {target.summary}.\nKEY=A,B,C, choice(...), range(...), glob(...) and shuffle(...)"
        " are swept;\nthe outcome is a folder with table.csv, pareto.svg and report.html.",
        command=target.command,
        also=SWEEP,
        examples=EXAMPLES[name],
    )
    args = parser.parse_intermixed_args(argv[1:])

    from prelude.conf.load import load
    from prelude.sweep.run import sweep

    ours = [line for line in args.overrides if _is_ours(line)]
    others = [line for line in args.overrides if not _is_ours(line)]
    options = load(SWEEP, SweepConfig, ours, config_dirs=args.config_dir).sweep
    shown = ["prelude", "sweep", *argv]
    return sweep(name, options, others, args.config_dir, shown)


def _is_ours(line: str) -> bool:
    return line.lstrip("+~").startswith(("sweep.", "sweep="))


def _usage(argv: list[str]) -> int:
    is_help = bool(argv) and argv[0] in ("-h", "--help")
    out = sys.stdout if is_help else sys.stderr
    if argv and not is_help:
        print(f"prelude: error: sweep {argv[0]}: unknown target", file=out)
    print("usage: prelude sweep TARGET [GROUP=OPTION | KEY=A,B,C | KEY=range(...) ...]\n", file=out)
    for name, target in TARGETS.items():
        print(f"  {name:<14}{target.summary}", file=out)
    print("\nprelude sweep TARGET --help lists the groups and keys that TARGET takes.", file=out)
    return 0 if is_help else 2
