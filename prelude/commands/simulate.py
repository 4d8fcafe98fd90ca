"""``prelude simulate``: traffic through the batcher alone, hours of it in seconds."""

from prelude.commands.parser import CommandParser
from prelude.conf.command import SIMULATE
from prelude.conf.simulate import SimulateConfig

EXAMPLES = (
    "prelude simulate",
    "prelude simulate mix=m4 device=h200_32b traffic.load=0.7 traffic.num_requests=20000",
    "prelude simulate -m batcher.policy=fcfs,class_aware traffic.seed=range(0,5)",
    "prelude simulate replay=steps.jsonl device.prices=profile.json device.max_seqs=64",
)


def run(argv: list[str]) -> int:
    parser = CommandParser(
        "simulate",
        "Play traffic through the engine's batcher on a price list, without model or device.",
        command=SIMULATE,
        examples=EXAMPLES,
    )
    parser.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="every combination of KEY=A,B,C or KEY=range(1,9), one line of JSON each",
    )
    args = parser.parse_intermixed_args(argv)

    from prelude.commands.sweep import expand
    from prelude.conf.load import load
    from prelude.simulate.report import replay_and_show, simulate_and_show

    points = expand(args.overrides) if args.multirun else [args.overrides]
    configs = [
        load(SIMULATE, SimulateConfig, point, config_dirs=args.config_dir) for point in points
    ]
    for point, config in zip(points, configs, strict=True):
        if config.replay is None:
            simulate_and_show(config, title=" ".join(point))
        else:
            replay_and_show(config)
    return 0
