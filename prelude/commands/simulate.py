"""``prelude simulate``: traffic through the batcher alone, hours of it in seconds."""

from prelude.commands.parser import CommandParser
from prelude.conf.command import SIMULATE
from prelude.conf.simulate import SimulateConfig

EXAMPLES = (
    "prelude simulate",
    "prelude simulate mix=m4 device=h200_32b traffic.load=0.7 traffic.num_requests=20000",
    "prelude simulate batcher.policy=class_aware traffic.arrival=gamma plot=latency.svg",
    "prelude simulate replay=steps.jsonl device.prices=profile.json device.max_seqs=64",
)


def run(argv: list[str]) -> int:
    parser = CommandParser(
        "simulate",
        "Play traffic through the engine's batcher on a price list, without model or device.",
        command=SIMULATE,
        examples=EXAMPLES,
    )
    args = parser.parse_intermixed_args(argv)

    from prelude.conf.load import load
    from prelude.simulate.report import replay_and_show, simulate_and_show

    config = load(SIMULATE, SimulateConfig, args.overrides, config_dirs=args.config_dir)
    if config.replay is None:
        simulate_and_show(config, title=" ".join(args.overrides))
    else:
        replay_and_show(config)
    return 0
