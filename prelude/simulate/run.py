"""``simulate``: one configuration in, one result out, and nothing else touched."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from random import Random

from prelude.bench.stats import summarise
from prelude.conf.checks import check_config
from prelude.conf.schema import CacheConfig, Config, RunnerConfig
from prelude.conf.simulate import SimArrival, SimulateConfig
from prelude.simulate.fleet import Progress, build, nobody, play
from prelude.simulate.metrics import Reporter
from prelude.simulate.records import Gaps, Life, Recorder
from prelude.simulate.replica import Replica, truth_of
from prelude.simulate.result import LoadReport, SimulateResult, StepReport
from prelude.simulate.saturation import saturation
from prelude.simulate.stationary import crowd_of
from prelude.simulate.traces import read_trace
from prelude.simulate.traffic import SimRequest, draw, numbered
from prelude.types.service import SERVICE_CLASSES

MAX_REQUESTS = 10_000_000
REQUESTS_FOR_P99 = 1000


def simulate(config: SimulateConfig, progress: Progress = nobody) -> SimulateResult:
    """Play the traffic of ``config`` through its batcher and report. ``progress`` gets the share
    that is done. Equal configurations give equal results, but for the times that this machine
    took; ``traffic.seed`` gives every policy the same requests. Raises ``ValueError`` for a
    configuration that cannot run."""
    validate(config)
    begun_s = time.perf_counter()
    requests, saturated = _requests(config)
    crowd = _crowd(config, requests)
    first, end = _counted(config, len(requests), len(crowd))
    requests = numbered(crowd + requests)
    recorder = Recorder(first, end)
    seed = config.traffic.seed
    replicas = build(config.fleet, config.device, config.batcher, recorder, seed)
    simulated_s = play(replicas, requests, config.fleet.routing, progress)
    reporter = _reporter(config, recorder, replicas, requests[first:end])
    offered = _rate(requests[len(crowd) :])
    return SimulateResult(
        config=asdict(config),
        policy=config.batcher.policy,
        seed=seed,
        load=LoadReport(saturated, offered, len(crowd)),
        simulated_s=simulated_s,
        wall_s=time.perf_counter() - begun_s,
        total=reporter.report(lambda life: True, reporter.all_gaps()),
        classes={
            name: reporter.report(_is_kind(name), recorder.gaps[name]) for name in recorder.gaps
        },
        lanes={
            name: reporter.report(_is_lane(name), None)
            for name in SERVICE_CLASSES
            if any(life.service_class == name for life in reporter.lives)
        },
        steps=_steps(replicas, simulated_s),
        fairness=reporter.fairness(),
        replicas=[
            sum(life.replica == number for life in reporter.lives)
            for number in range(len(replicas))
        ],
        warnings=_warnings(reporter),
        samples=reporter.samples if config.samples else [],
    )


def validate(config: SimulateConfig) -> None:
    """Raises ``ValueError`` naming the key that is out of bounds."""
    device, traffic = config.device, config.traffic
    check_config(
        Config(
            batcher=config.batcher,
            runner=RunnerConfig(max_seqs=device.max_seqs),
            cache=CacheConfig(block_size=device.block_size, num_blocks=device.num_blocks),
        )
    )
    if (traffic.load is None) == (traffic.rate is None) and traffic.arrival is not SimArrival.trace:
        raise ValueError("traffic.load, traffic.rate: set one of them, and the other to null")
    for key, value, is_good in (
        ("traffic.num_requests", traffic.num_requests, 1 <= traffic.num_requests <= MAX_REQUESTS),
        ("traffic.load", traffic.load, traffic.load is None or traffic.load > 0),
        ("traffic.rate", traffic.rate, traffic.rate is None or traffic.rate > 0),
        ("traffic.length_scale", traffic.length_scale, traffic.length_scale > 0),
        ("traffic.label_error", traffic.label_error, 0 <= traffic.label_error <= 1),
        ("device.bias", device.bias, device.bias > 0),
        ("device.noise", device.noise, device.noise >= 0),
        ("device.host_blocks", device.host_blocks, device.host_blocks >= 0),
        ("device.swap_ms", device.swap_ms, device.swap_ms >= 0),
        ("fleet.replicas", config.fleet.replicas, 1 <= config.fleet.replicas <= 1000),
        ("resamples", config.resamples, config.resamples >= 0),
    ):
        if not is_good:
            raise ValueError(f"{key}={value}: out of bounds")
    if min(config.warmup_share, config.cooldown_share) < 0 or (
        config.warmup_share + config.cooldown_share >= 1
    ):
        raise ValueError("warmup_share, cooldown_share: must leave requests that count")


def _requests(config: SimulateConfig) -> tuple[list[SimRequest], float | None]:
    """The traffic, and what fcfs can sustain of it where the load is a share of that."""
    traffic = config.traffic
    if traffic.arrival is SimArrival.trace:
        return read_trace(traffic), None
    if traffic.rate is not None:
        return draw(traffic, traffic.rate), None
    assert traffic.load is not None
    saturated = saturation(traffic, config.device, config.fleet.replicas)
    return draw(traffic, traffic.load * saturated), saturated


def _crowd(config: SimulateConfig, requests: list[SimRequest]) -> list[SimRequest]:
    """Who is running already when the first of ``requests`` comes. Moves these to when the crowd
    has its memory again."""
    traffic, device, replicas = config.traffic, config.device, config.fleet.replicas
    if not traffic.warm or traffic.arrival is SimArrival.trace:
        return []
    long_run = crowd_of(traffic, device)
    rng = Random(f"{traffic.seed}/crowd")
    num = long_run.num_running(_rate(requests) / replicas)
    crowd = [request for _ in range(replicas) for request in long_run.found(num, rng)]
    truth, chunk = truth_of(device), config.batcher.max_step_tokens
    ready_s = sum(truth.prompt_ms(r.num_prompt, chunk) for r in crowd) / 1e3 / replicas
    requests[:] = [replace(r, arrival_s=r.arrival_s + ready_s) for r in requests]
    return crowd


def _rate(requests: list[SimRequest]) -> float:
    span_s = requests[-1].arrival_s - requests[0].arrival_s
    return (len(requests) - 1) / span_s if span_s > 0 else 0.0


def _counted(config: SimulateConfig, num: int, num_before: int) -> tuple[int, int]:
    """The first request that counts, and the first after it that does not."""
    first = num_before + int(config.warmup_share * num)
    return first, max(num_before + num - int(config.cooldown_share * num), first + 1)


def _reporter(
    config: SimulateConfig,
    recorder: Recorder,
    replicas: list[Replica],
    counted: list[SimRequest],
) -> Reporter:
    truth, chunk = replicas[0].truth, config.batcher.max_step_tokens

    def alone_ms(life: Life) -> float:
        return truth.alone_ms(life.truth.num_prompt, life.num_tokens, chunk)

    measured_s = max(counted[-1].arrival_s - counted[0].arrival_s, 1e-9)
    return Reporter(config, recorder, measured_s, alone_ms)


def _steps(replicas: list[Replica], simulated_s: float) -> StepReport:
    us = [value for replica in replicas for value in replica.policy.us]
    return StepReport(
        num=sum(replica.steps.num for replica in replicas),
        repeated=sum(replica.steps.repeated for replica in replicas),
        schedule_us=summarise(us, resamples=0),
        step_ms=Gaps().merged(replica.steps.ms for replica in replicas).summary(),
        busy=sum(r.runner.busy_ms for r in replicas) / 1e3 / (simulated_s * len(replicas)),
        num_parks=sum(replica.core.ledger.num_parks for replica in replicas),
        wasted_ms=sum(replica.runner.wasted_ms for replica in replicas),
        num_swaps=sum(replica.core.ledger.shelf.num_swaps for replica in replicas),
        copy_ms=sum(replica.runner.copy_ms for replica in replicas),
        price_error=max(replica.core.profile.prices.error for replica in replicas),
    )


def _warnings(reporter: Reporter) -> list[str]:
    """Why these numbers may not mean what they seem to."""
    found = []
    failed = sum(life.failure is not None for life in reporter.lives)
    if failed:
        found.append(f"{failed} requests were refused; latencies are of the others")
    for name in dict.fromkeys(life.truth.kind for life in reporter.lives):
        num = sum(life.truth.kind == name for life in reporter.lives)
        if num < REQUESTS_FOR_P99:
            found.append(f"p99 of {num} requests of {name}; {REQUESTS_FOR_P99} are asked for")
    return found


def _is_kind(name: str) -> Callable[[Life], bool]:
    return lambda life: life.truth.kind == name


def _is_lane(name: str) -> Callable[[Life], bool]:
    return lambda life: life.service_class == name
