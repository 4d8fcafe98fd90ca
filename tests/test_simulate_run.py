"""Whole simulations: the same twice, as exact many steps at a time as one by one, and nothing lost
on the way from requests to the report."""

from dataclasses import replace
from math import inf
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prelude.conf.schema import BatcherConfig, MechanismsConfig, Policy
from prelude.conf.simulate import Labels, Limit, Routing, SimArrival, SimClass, SimulateConfig
from prelude.simulate.fleet import build, play
from prelude.simulate.metrics import jain
from prelude.simulate.records import Recorder
from prelude.simulate.replica import Replica
from prelude.simulate.result import SimulateResult
from prelude.simulate.run import simulate
from prelude.simulate.saturation import saturation
from prelude.simulate.traffic import draw
from tests.simulations import device, fixed, mix, small

SLOW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def essence(result: SimulateResult) -> dict[str, Any]:
    """Without what this machine's own time is part of."""
    document = msgspec.to_builtins(result)
    assert isinstance(document, dict)
    del document["wall_s"], document["steps"]["schedule_us"]
    return document


def plain(**changes: Any) -> SimulateConfig:
    return replace(small(**changes), warmup_share=0.0, cooldown_share=0.0, samples=True)


def test_equal_configurations_give_equal_results() -> None:
    assert essence(simulate(small())) == essence(simulate(small()))
    assert essence(simulate(small(seed=1))) != essence(simulate(small()))


@SLOW
@given(
    seed=st.integers(0, 1000),
    rate=st.sampled_from([2.0, 8.0, 20.0]),
    limit=st.sampled_from(list(Limit)),
    max_seqs=st.sampled_from([2, 16]),
    num_blocks=st.sampled_from([513, 1200]),
)
def test_steps_taken_at_once_change_nothing(
    seed: int, rate: float, limit: Limit, max_seqs: int, num_blocks: int
) -> None:
    on = device(max_seqs=max_seqs, num_blocks=num_blocks, overhead_ms=0.2, learn=False)
    config = small(num_requests=50, seed=seed, rate=rate, limit=limit, on=on)
    lives = []
    for at_once in (True, False):
        recorder = Recorder(0, 50)
        (engine,) = build(config.fleet, on, config.batcher, recorder, seed)
        if not at_once:
            engine._repeat = lambda until_s: None  # type: ignore[method-assign]
        play([engine], draw(config.traffic, rate), Routing.round_robin)
        assert (engine.steps.repeated > 0) is at_once
        engine.core.ledger.check()
        lives.append(recorder.lives)
    for uid, life in lives[0].items():
        other = lives[1][uid]
        assert life.num_tokens == other.num_tokens
        for name in ("ready_s", "end_s", "max_gap_s", "queue_ms"):
            assert getattr(life, name) == pytest.approx(getattr(other, name), abs=1e-6)


@SLOW
@given(
    seed=st.integers(0, 1000),
    rate=st.sampled_from([1.0, 10.0, 100.0]),
    arrival=st.sampled_from([SimArrival.poisson, SimArrival.gamma, SimArrival.onoff]),
    limit=st.sampled_from(list(Limit)),
    noise=st.sampled_from([0.0, 0.3]),
    replicas=st.integers(1, 3),
)
def test_every_request_gets_every_token(
    seed: int, rate: float, arrival: SimArrival, limit: Limit, noise: float, replicas: int
) -> None:
    on = device(noise=noise, bias=1.2)
    config = plain(
        num_requests=40,
        seed=seed,
        rate=rate,
        arrival=arrival,
        limit=limit,
        replicas=replicas,
        on=on,
    )
    result = simulate(config)
    wanted = {r.uid: r for r in draw(config.traffic, rate)}
    assert result.total.num_completed == 40 and not result.total.failures
    for sample in result.samples:
        request = wanted[sample.index]
        assert sample.output_tokens == request.num_output
        assert sample.prompt_tokens == request.num_prompt
        assert sample.ttft_ms is not None and sample.e2e_ms is not None
        assert 0.0 < sample.ttft_ms <= sample.e2e_ms
    assert sum(result.replicas) == 40 and len(result.replicas) == replicas
    assert 0.0 < result.steps.busy <= 1.0 + 1e-9


def test_nobody_is_served_faster_than_alone() -> None:
    result = simulate(plain(rate=5.0, on=device(learn=False)))
    assert result.total.slowdown is not None
    assert result.total.slowdown.min >= 0.99


def test_on_an_empty_machine_everybody_is_alone() -> None:
    result = simulate(plain(rate=0.01, num_requests=20, on=device(learn=False)))
    assert result.total.slowdown is not None and result.total.ttft_ms is not None
    assert result.total.slowdown.max == pytest.approx(1.0, rel=0.03)


def test_classes_add_up_to_all() -> None:
    result = simulate(small())
    for name in ("num_sent", "num_completed", "prompt_tokens", "output_tokens"):
        total = getattr(result.total, name)
        assert total == sum(getattr(report, name) for report in result.classes.values())
        assert total == sum(getattr(report, name) for report in result.lanes.values())
    assert result.total.itl_ms is not None
    counts = [report.itl_ms.count for report in result.classes.values() if report.itl_ms]
    assert result.total.itl_ms.count == sum(counts)


def test_the_first_and_last_requests_do_not_count() -> None:
    config = replace(small(num_requests=100), warmup_share=0.2, cooldown_share=0.1, samples=True)
    result = simulate(config)
    assert [sample.index for sample in result.samples] == list(range(20, 90))


def test_more_load_makes_everybody_wait_longer() -> None:
    waits = []
    for load in (0.3, 0.9, 1.5):
        result = simulate(small(num_requests=300, rate=None, load=load))
        assert result.total.ttft_ms is not None
        waits.append(result.total.ttft_ms.mean)
        saturated = result.load.saturation_req_s
        assert saturated is not None
        assert result.load.offered_req_s == pytest.approx(load * saturated, rel=0.25)
    assert waits == sorted(waits)


def test_saturation_does_not_depend_on_what_is_compared() -> None:
    base = small(rate=None, load=0.5)
    same = replace(base.traffic, seed=9, load=0.9, num_requests=10)
    assert saturation(base.traffic, base.device, 1) == saturation(same, base.device, 1)


def test_two_replicas_serve_faster_than_one() -> None:
    one, two = (simulate(small(rate=25.0, replicas=replicas)) for replicas in (1, 2))
    assert one.total.e2e_ms is not None and two.total.e2e_ms is not None
    assert two.total.e2e_ms.mean < one.total.e2e_ms.mean


def test_a_router_that_looks_at_work_sends_it_where_there_is_less() -> None:
    results = []
    for routing in (Routing.round_robin, Routing.least_work):
        config = small(num_requests=300, rate=30.0, replicas=3)
        config.fleet.routing = routing
        results.append(simulate(config).total.ttft_ms)
    blind, seeing = results
    assert blind is not None and seeing is not None
    assert seeing.p90.value < blind.p90.value


def test_conversations_find_their_beginnings_in_the_cache() -> None:
    chat = SimClass(prompt=fixed(20), output=fixed(12), prefix_len=64, turns=4, think_s=3.0)
    config = plain(classes={"chat": chat}, rate=2.0, num_requests=80)
    with_cache = replace(config, device=replace(config.device, prefix=True))
    assert simulate(config).total.cached_tokens == 0
    cached = simulate(with_cache).total
    assert cached.cached_tokens > 0.6 * cached.prompt_tokens
    assert cached.num_completed == 80


def test_a_full_queue_refuses_and_says_so() -> None:
    config = plain(rate=500.0, batcher=BatcherConfig(max_step_tokens=512, max_waiting=4))
    result = simulate(config)
    assert result.total.failures["error"] > 0
    assert result.total.num_completed + result.total.failures["error"] == 120
    assert any("refused" in warning for warning in result.warnings)


def test_memory_that_runs_short_costs_work() -> None:
    on = device(num_blocks=220, max_seqs=64)
    batcher = BatcherConfig(policy=Policy.fcfs, max_step_tokens=512, headroom=0)
    result = simulate(plain(rate=60.0, on=on, batcher=batcher))
    assert result.total.num_completed == 120
    assert result.total.num_preemptions > 0 and result.steps.wasted_ms > 0.0


def test_host_memory_spares_computing_again() -> None:
    on = device(num_blocks=220, max_seqs=64)
    batcher = BatcherConfig(policy=Policy.fcfs, max_step_tokens=512, headroom=0)
    kept = replace(on, host_blocks=500, swap_ms=0.05)
    plain_steps, steps = (
        simulate(plain(rate=60.0, on=each, batcher=batcher)).steps for each in (on, kept)
    )
    assert (plain_steps.num_swaps, plain_steps.copy_ms) == (0, 0.0)
    assert steps.num_swaps > 0 and steps.copy_ms > 0.0
    assert steps.wasted_ms + steps.copy_ms < 0.5 * plain_steps.wasted_ms


def test_swapping_can_be_switched_off() -> None:
    on = device(num_blocks=220, max_seqs=64, host_blocks=500)
    use = MechanismsConfig(swap=False)
    batcher = BatcherConfig(policy=Policy.fcfs, max_step_tokens=512, headroom=0, use=use)
    steps = simulate(plain(rate=60.0, on=on, batcher=batcher)).steps
    assert steps.num_swaps == 0 and steps.wasted_ms > 0.0


@pytest.mark.parametrize("changes", [{"host_blocks": -1}, {"swap_ms": -0.1}])
def test_less_than_nothing_on_the_host_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"device.{next(iter(changes))}"):
        simulate(small(on=device(**changes)))


def test_labels_do_not_change_what_fcfs_does() -> None:
    honest, lies = (simulate(small(labels=labels)) for labels in (Labels.honest, Labels.lies))
    assert essence(honest)["total"] == essence(lies)["total"]


def test_progress_goes_from_nothing_to_all() -> None:
    seen: list[float] = []
    simulate(small(num_requests=200), seen.append)
    assert seen[0] == 0.0 and seen[-1] == 1.0 and seen == sorted(seen)


def test_a_policy_that_does_nothing_is_found_out() -> None:
    config = small(num_requests=1)
    recorder = Recorder(0, 1)
    engine = Replica(0, config.device, config.batcher, recorder)
    engine.add(replace(draw(config.traffic, 1.0)[0], arrival_s=0.0))
    engine.core.step = list  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="nothing was done"):
        engine.advance(inf)


@pytest.mark.parametrize(("shares", "index"), [([1.0, 1.0], 1.0), ([1.0, 0.0], 0.5), ([], None)])
def test_jains_index(shares: list[float], index: float | None) -> None:
    assert jain(shares) == index


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda c: setattr(c.traffic, "load", 0.5), "traffic.load"),
        (lambda c: setattr(c.traffic, "num_requests", 0), "traffic.num_requests"),
        (lambda c: setattr(c.traffic, "rate", -1.0), "traffic.rate"),
        (lambda c: setattr(c.traffic, "label_error", 2.0), "traffic.label_error"),
        (lambda c: setattr(c.device, "bias", 0.0), "device.bias"),
        (lambda c: setattr(c.device, "max_seqs", 0), "runner.max_seqs"),
        (lambda c: setattr(c.batcher, "min_chunk", 9999), "batcher.min_chunk"),
        (lambda c: setattr(c.fleet, "replicas", 0), "fleet.replicas"),
        (lambda c: setattr(c, "warmup_share", 0.99), "warmup_share"),
    ],
)
def test_what_cannot_run_is_refused(change: Any, key: str) -> None:
    config = small()
    change(config)
    with pytest.raises(ValueError, match=key):
        simulate(config)


def test_classes_that_weigh_nothing_are_left_out() -> None:
    classes = mix()
    classes["deep"].weight = 0.0
    assert "deep" not in simulate(small(classes=classes)).classes
