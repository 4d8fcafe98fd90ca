"""What each command is configured with. Light on purpose: help texts read it without Hydra."""

from collections.abc import Mapping
from dataclasses import dataclass

from prelude.conf.bench import EngineBenchConfig, PricesBenchConfig, ServeBenchConfig
from prelude.conf.schema import Config
from prelude.conf.simulate import SimulateConfig
from prelude.conf.sweep import ServeSweepConfig, SweepConfig


@dataclass(frozen=True, slots=True)
class Command:
    """A schema, the YAML file in this folder that composition starts from, and the groups it
    chooses among: the user's name of each, and Hydra's (folder, and ``@package`` if it is not
    the folder's)."""

    schema: type
    primary: str
    groups: Mapping[str, str]


_ENGINE_GROUPS = {
    name: name
    for name in (
        "preset",
        "model",
        "runner",
        "attention",
        "graphs",
        "cache",
        "batcher",
        "sampling",
        "server",
        "log",
    )
}

ENGINE = Command(Config, "config", _ENGINE_GROUPS)
BENCH_SERVE = Command(ServeBenchConfig, "bench_serve", {"workload": "bench/serve@_global_"})
BENCH_ENGINE = Command(
    EngineBenchConfig, "bench_engine", {"workload": "bench/engine@_global_", **_ENGINE_GROUPS}
)
BENCH_PRICES = Command(PricesBenchConfig, "bench_prices", _ENGINE_GROUPS)
SIMULATE = Command(
    SimulateConfig,
    "simulate",
    {
        "mix": "simulate/mix@_global_",
        "device": "simulate/device@_global_",
        "batcher": "batcher",
    },
)
SWEEP = Command(SweepConfig, "sweep", {"sweep": "sweep"})
SWEEP_SERVE = Command(
    ServeSweepConfig, "sweep_serve", {"workload": "bench/serve@bench", **_ENGINE_GROUPS}
)
