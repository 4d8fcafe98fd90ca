"""The scheduling benchmark's traces, cells and candidates."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from benchmarks import scheduling
from benchmarks.scheduling_cells import (
    ABLATIONS,
    MAIN,
    MECHANISMS,
    OURS,
    PROBATION_TOKENS,
    REGIMES,
    TUNABLE,
    VARIANTS,
    probation,
    simulation,
)
from benchmarks.scheduling_simulate import best_on_average, simulated_as, tried_in_simulator
from benchmarks.scheduling_traces import answers, config_of, crowd, trace, with_long
from prelude.conf.load import load_config
from prelude.conf.schema import MechanismsConfig, Policy
from prelude.types.prices import flat_prices
from tests.scheduling_runs import pair, played_run


def test_a_candidate_is_chosen_over_all_seeds(prices: Path) -> None:
    regime = replace(REGIMES["mixed"], num_requests=40)
    found = tried_in_simulator(regime, "mixed", 0.95, rate=10.0, prices=prices, seeds=(7, 8))
    assert [(one.name, one.seed) for one in found] == [(n, s) for n in TUNABLE for s in (7, 8)]
    assert all(0.0 < one.ttft_p50 <= one.ttft_p99 for one in found)
    means = {name: sum(one.ttft_p99 for one in found if one.name == name) / 2 for name in TUNABLE}
    assert best_on_average(found) == min(means, key=means.__getitem__)


def test_a_run_is_simulated_as_it_was(prices: Path) -> None:
    run = played_run(variant=OURS)
    regime = replace(REGIMES["mixed"], num_requests=40)
    found = simulated_as(run, regime, VARIANTS[OURS], prices)
    assert (found.regime, found.load, found.seed, found.variant) == run.key
    assert 0.0 < found.ttft_p50 <= found.ttft_p99
    assert found.deep_e2e is not None


def test_the_middle_of_a_trace_counts(prices: Path) -> None:
    found = trace(
        replace(REGIMES["short"], num_requests=100),
        VARIANTS["plain"],
        rate=20.0,
        seed=1,
        vocab_size=640,
        prices=prices,
    )
    seen = scheduling.watch_of(found, REGIMES["short"])
    counted = [uid for uid in range(len(found.requests)) if seen.counts(uid)]
    assert counted == list(range(found.num_before + 10, found.num_before + 95))
    assert seen.window.start_s == found.requests[counted[0]][0].arrival_s


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.json"
    path.write_bytes(msgspec.json.encode(flat_prices(2.0, 0.05)))
    return path


@pytest.mark.parametrize("name", ["mixed", "kv", "bursts"])
def test_all_policies_get_the_same_requests(name: str, prices: Path) -> None:
    regime = replace(REGIMES[name], num_requests=60)
    traces = [
        trace(regime, VARIANTS[variant], rate=10.0, seed=3, vocab_size=640, prices=prices)
        for variant in ("plain", OURS, "lies", "blind")
    ]
    first = traces[0]
    assert [truth.uid for truth, _ in first.requests] == list(range(len(first.requests)))
    assert first.num_before > 0
    for other in traces[1:]:
        assert other.num_before == first.num_before
        for (ours, request), (theirs, same) in zip(first.requests, other.requests, strict=True):
            assert ours.arrival_s == theirs.arrival_s
            assert request.prompt_ids == same.prompt_ids
            assert request.params == same.params
    labels = [[r.hints.service_class for _, r in found.requests] for found in traces]
    assert labels[0] == labels[1] != labels[2]
    assert set(labels[3]) == {None}


def test_everything_fits_into_the_context_and_into_memory(prices: Path) -> None:
    for name in ("mixed", "kv"):
        regime = REGIMES[name]
        found = trace(regime, VARIANTS[OURS], rate=10.0, seed=1, vocab_size=640, prices=prices)
        longest = max(len(r.prompt_ids) + (r.params.max_tokens or 0) for _, r in found.requests)
        assert longest <= 2048
        assert longest <= (regime.num_blocks - 1) * 16
        assert {truth.kind for truth, _ in found.requests} == {"chat", "deep", "doc"}


def test_the_crowd_is_as_large_as_the_load_and_comes_before_the_traffic(prices: Path) -> None:
    sizes = []
    for rate in (5.0, 20.0):
        config = config_of(REGIMES["mixed"], VARIANTS[OURS], rate=rate, seed=1, prices=prices)
        before, ready_s = crowd(config, rate, 1)
        assert ready_s > 0.0
        sizes.append(len(before))
    assert sizes[0] < sizes[1] <= 64


def test_a_long_prompt_comes_between_the_others() -> None:
    requests = [pair(uid, 1.0 + uid)[0] for uid in range(5)]
    found = with_long(requests, 32_000)
    assert [request.kind for request in found].index("doc") == 3
    assert found[3].num_prompt == 32_000
    assert found[3].arrival_s == 3.0


def test_real_answers_are_labelled_for_priority_alone() -> None:
    found = answers(50, VARIANTS["plain"], 5.0, 1)
    lying = answers(50, VARIANTS["lies"], 5.0, 1)
    for (truth, request), (_, liar) in zip(found, lying, strict=True):
        is_deep = truth.num_output > PROBATION_TOKENS
        assert truth.kind == ("deep" if is_deep else "chat")
        assert request.hints.priority == int(is_deep) == 1 - liar.hints.priority
        assert request.hints.service_class is None
        assert not request.params.ignore_eos
    arrivals = [truth.arrival_s for truth, _ in found]
    assert arrivals == sorted(arrivals)


def test_every_variant_is_a_configuration_and_every_mechanism_is_left_out_once() -> None:
    for variant in (*VARIANTS.values(), *TUNABLE.values()):
        load_config([*variant.overrides, probation(flat_prices(1.0, 0.0))])
    assert set(MECHANISMS) <= set(MechanismsConfig.__dataclass_fields__)
    off = [load_config(VARIANTS[f"no {name}"].overrides).batcher.use for name in MECHANISMS]
    for name, use in zip(MECHANISMS, off, strict=True):
        assert not getattr(use, name)
        assert not use.contract
    assert set(ABLATIONS).isdisjoint(MAIN)


def test_every_cell_is_known() -> None:
    for regime, load, variants in scheduling.CELLS:
        assert load in (*REGIMES[regime].loads, 0.85)
        assert set(variants) <= {*VARIANTS, "tuned"}
    assert {regime for regime, _, _ in scheduling.CELLS} == set(REGIMES)


def test_a_cell_is_what_the_simulator_is_asked_for(prices: Path) -> None:
    config = simulation(REGIMES["kv"], VARIANTS[OURS], rate=7.0, seed=4)
    assert config.device.num_blocks == REGIMES["kv"].num_blocks
    assert config.traffic.rate == 7.0
    assert config.traffic.seed == 4
    assert config.batcher.policy is Policy.class_aware
    assert not config.batcher.use.contract


def test_probation_is_in_milliseconds_of_this_machine() -> None:
    assert probation(flat_prices(2.0, 0.0)) == "batcher.probation_ms=48.0000"
