"""What ``prelude sweep`` can be asked for, beside the keys of what it sweeps."""

from dataclasses import dataclass, field
from enum import StrEnum

from prelude.conf.bench import ServeBenchConfig
from prelude.conf.schema import Config


class Search(StrEnum):
    """Which points are run."""

    grid = "grid"  # every combination
    optuna = "optuna"  # those that Optuna's sampler proposes


@dataclass(slots=True)
class SweepOptions:
    """Metrics are named as in the table: CLASS.METRIC or CLASS.METRIC.STAT, such as
    ``chat.ttft_ms.p99`` and ``total.output_tok_s``."""

    params: list[str] = field(default_factory=list)  # overrides, before the command line's
    out: str | None = None  # folder; one with results is continued; default: a new one in runs/
    jobs: int | None = None  # points at a time; default: cores - 1 for simulate, otherwise 1
    timeout_s: float = 3600.0  # of one point
    max_points: int = 1000  # more are refused
    search: Search = Search.grid
    trials: int = 30  # of a search: settings to try, each under all swept traffic and seeds
    search_seed: int = 0
    objectives: list[str] = field(default_factory=list)  # of a search: the metrics to better
    baseline: list[str] = field(default_factory=list)  # "KEY=VALUE"; default: the first setting
    held_out: list[int] = field(default_factory=list)  # seeds that only choose among baselines
    subject: list[str] = field(default_factory=list)  # "KEY=VALUE", on top; default: last setting
    headline: list[str] = field(default_factory=list)  # metrics to compare; default: by target
    pareto: list[str] = field(default_factory=list)  # two metrics; default: by target
    resamples: int = 1000  # of the bootstrap over seeds
    title: str | None = None  # of the report
    progress: bool = True  # a bar on stderr


@dataclass(slots=True)
class SweepConfig:
    sweep: SweepOptions = field(default_factory=SweepOptions)


@dataclass(slots=True)
class ServeSweepConfig(Config):
    """``prelude sweep serve``: a server's configuration, and the load that is sent to it."""

    bench: ServeBenchConfig = field(default_factory=ServeBenchConfig)
    start_timeout_s: float = 600.0  # until the server is ready
