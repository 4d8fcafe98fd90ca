"""The crowd that a long run settles in, against a long run."""

from random import Random
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.conf.schema import BatcherConfig
from prelude.simulate.fleet import build, play
from prelude.simulate.records import Recorder
from prelude.simulate.run import simulate
from prelude.simulate.saturation import saturation
from prelude.simulate.stationary import Crowd, crowd_of
from prelude.simulate.traffic import draw
from tests.simulations import device, small


@pytest.fixture(scope="module")
def crowd() -> Crowd:
    return crowd_of(small().traffic, device())


def test_long_ones_are_found_more_often_than_they_come(crowd: Crowd) -> None:
    found = crowd.found(16, Random(0))
    share = mean(request.kind == "deep" for request in found)
    weight = mean(request.kind == "deep" for request in crowd.sample)
    tokens = sum(r.num_output for r in crowd.sample if r.kind == "deep")
    biased = tokens / sum(r.num_output for r in crowd.sample)
    assert share > 2 * weight and share == pytest.approx(biased, abs=0.15)


@settings(deadline=None, max_examples=20)
@given(num=st.integers(1, 64), seed=st.integers(0, 1000))
def test_who_is_found_is_on_its_way(crowd: Crowd, num: int, seed: int) -> None:
    found = crowd.found(num, Random(seed))
    room = crowd.device.num_blocks * crowd.device.block_size
    assert 1 <= len(found) <= num
    assert sum(r.num_prompt for r in found) <= max(room, found[0].num_prompt)
    assert all(r.num_output >= 1 and r.arrival_s == 0.0 for r in found)
    assert all(r.max_tokens == r.num_output for r in found)


def test_more_load_means_a_larger_crowd(crowd: Crowd) -> None:
    sizes = [crowd.num_running(rate) for rate in (0.1, 2.0, 8.0, 1000.0)]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] == crowd.device.max_seqs


def test_the_crowd_is_as_large_as_a_long_run_says(crowd: Crowd) -> None:
    rate, config = 8.0, small(num_requests=800, rate=8.0)
    recorder = Recorder(0, 800)
    (engine,) = build(config.fleet, config.device, config.batcher, recorder, 0)
    end_s = play([engine], draw(config.traffic, rate), config.fleet.routing)
    stays_s = sum(life.end_s - life.ready_s for life in recorder.lives.values())
    assert crowd.num_running(rate) == pytest.approx(stays_s / end_s, rel=0.4, abs=1.0)


def test_typical_requests_have_the_mean_of_all(crowd: Crowd) -> None:
    typical = crowd.typical(200)
    assert mean(r.num_output for r in typical) == pytest.approx(crowd.mean_output, rel=0.03)


def test_saturation_is_what_a_long_run_sustains() -> None:
    config = small(num_requests=1500, rate=None, load=1.0)
    sustained = saturation(config.traffic, config.device, 1)
    recorder = Recorder(0, 1500)
    batcher = BatcherConfig(max_step_tokens=2048, max_waiting=2000)
    (engine,) = build(config.fleet, config.device, batcher, recorder, 0)
    end_s = play([engine], draw(config.traffic, 20 * sustained), config.fleet.routing)
    assert 1500 / end_s == pytest.approx(sustained, rel=0.1)
    assert saturation(config.traffic, config.device, 3) == pytest.approx(3 * sustained)


def test_a_warm_start_does_not_count(crowd: Crowd) -> None:
    cold, warm = (simulate(small(rate=8.0, warm=warm)) for warm in (False, True))
    assert cold.load.num_before == 0 and warm.load.num_before == crowd.num_running(8.0)
    assert cold.total.num_sent == warm.total.num_sent
    assert cold.total.output_tokens == warm.total.output_tokens
    assert cold.load.offered_req_s == pytest.approx(warm.load.offered_req_s)
