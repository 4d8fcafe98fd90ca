"""What can be swept: which configuration it takes, how one point is measured, and which of its
keys describe the traffic rather than the engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from prelude.bench.result import RequestSample, Result
from prelude.conf.command import (
    BENCH_ENGINE,
    BENCH_PRICES,
    BENCH_SERVE,
    SIMULATE,
    SWEEP_SERVE,
    Command,
)
from prelude.conf.sweep import ServeSweepConfig

Check = Callable[[Any], None]
Measurer = Callable[[Any, Sequence[str]], msgspec.Struct]


@dataclass(frozen=True, slots=True)
class Target:
    """``regime`` are the beginnings of keys that make points incomparable: what came, and on what
    it ran. ``seed`` is the key of the draw. With ``is_alone`` every point gets a process of its
    own, so that none inherits another's memory, threads or compiled programs; others share
    workers. ``own`` are keys that a sweep sets itself. ``measure`` gets the configuration and the
    command line that it came from."""

    summary: str
    command: Command
    check: Check
    measure: Measurer
    regime: tuple[str, ...]
    seed: str
    is_alone: bool
    own: tuple[str, ...] = ()


def _check_simulation(config: Any) -> None:
    from prelude.simulate.run import validate

    if config.replay is not None:
        raise ValueError("replay: a step log is replayed by `prelude simulate`, not by a sweep")
    validate(config)


def _simulate(config: Any, arguments: Sequence[str]) -> msgspec.Struct:
    from prelude.simulate.run import simulate

    return simulate(replace(config, samples=True))


def _check_serve(config: Any) -> None:
    _check_load(config.bench)


def _serve(config: ServeSweepConfig, arguments: Sequence[str]) -> msgspec.Struct:
    """A server of its own on loopback, from its start to its end."""
    from prelude.bench.frontend import running_server
    from prelude.bench.serve import run

    with running_server(server_arguments(arguments), config.start_timeout_s) as (base_url, _):
        return _decoded(run(replace(config.bench, base_url=base_url)))


def server_arguments(arguments: Sequence[str]) -> list[str]:
    """Those of a point that `prelude serve` takes."""
    of_the_sweep = ("bench.", "workload=", "start_timeout_s=")
    return [item for item in arguments if not item.lstrip("+~").startswith(of_the_sweep)]


def _check_load(config: Any) -> None:
    from prelude.bench.serve import validate

    validate(config)


def _load(config: Any, arguments: Sequence[str]) -> msgspec.Struct:
    from prelude.bench.serve import run

    return _decoded(run(config))


def _engine(config: Any, arguments: Sequence[str]) -> msgspec.Struct:
    from prelude.bench.engine import run

    return _decoded(run(config))


def _prices(config: Any, arguments: Sequence[str]) -> msgspec.Struct:
    from prelude.bench.prices import run

    return _decoded(run(config))


def _decoded(document: dict[str, Any]) -> msgspec.Struct:
    result: msgspec.Struct = msgspec.convert(document, type=Result)
    return result


def _no_check(config: Any) -> None:
    """What composition checks is all there is."""


_ENGINE_REGIME = ("bench.", "workload", "model")

TARGETS: Mapping[str, Target] = {
    "simulate": Target(
        "the batcher on a price list",
        SIMULATE,
        _check_simulation,
        _simulate,
        ("traffic.", "mix", "device", "fleet."),
        "traffic.seed",
        False,
        ("result", "plot", "progress", "samples"),
    ),
    "serve": Target(
        "a server of each configuration, under the load of bench.*",
        SWEEP_SERVE,
        _check_serve,
        _serve,
        _ENGINE_REGIME,
        "bench.seed",
        True,
        ("bench.base_url", "bench.result", "server.port", "server.host"),
    ),
    "bench-serve": Target(
        "`prelude bench serve`: loads on a server that runs already",
        BENCH_SERVE,
        _check_load,
        _load,
        ("",),
        "seed",
        True,
        ("result",),
    ),
    "bench-engine": Target(
        "`prelude bench engine`: step times",
        BENCH_ENGINE,
        _no_check,
        _engine,
        _ENGINE_REGIME,
        "bench.seed",
        True,
        ("bench.result",),
    ),
    "bench-prices": Target(
        "`prelude bench prices`: predicted against real step times",
        BENCH_PRICES,
        _no_check,
        _prices,
        _ENGINE_REGIME,
        "bench.seed",
        True,
        ("bench.result",),
    ),
}


def samples_of(result: msgspec.Struct) -> list[RequestSample]:
    """Of single requests; the engine's benchmarks have none."""
    samples: list[RequestSample] = getattr(result, "samples", [])
    return samples if samples and isinstance(samples[0], RequestSample) else []
