"""The scheduling benchmark's own parts: traces, the feeder, what is kept of a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from benchmarks.scheduling_engine import BoundedRunner, CpuClock, bundled, forget_prices
from benchmarks.scheduling_play import Played, Watch, Window, play, prompt_ids, sustained
from benchmarks.scheduling_record import (
    Document,
    Run,
    Tried,
    bins_of,
    keyed,
    pooled,
    read,
    run_of,
    write,
)
from benchmarks.scheduling_simulate import best_on_average, simulated_as, tried_in_simulator
from benchmarks.scheduling_traces import answers, config_of, crowd, trace, with_long
from prelude.conf.load import load_config
from prelude.conf.schema import BatcherConfig, CacheConfig, MechanismsConfig, Policy
from prelude.engine.core import EngineCore
from prelude.runner.fake import FakeRunner
from prelude.simulate.prompts import Part
from prelude.simulate.records import Gaps
from prelude.simulate.traffic import SimRequest
from prelude.types.plan import StepOutput
from prelude.types.prices import flat_prices
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints


class FakeTime:
    """A clock that only sleep and steps move."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def step(self, ms: float) -> None:
        self.now_s += ms / 1e3


def engine(clock: FakeTime, *, step_ms: float = 10.0, max_seqs: int = 4) -> EngineCore:
    runner = FakeRunner(prices=flat_prices(step_ms, 0.0), sleep=clock.step)
    return EngineCore(
        runner,
        batcher=BatcherConfig(policy=Policy.fcfs, step_ms=1e6, idle_step_ms=1e6),
        cache=CacheConfig(),
        max_seqs=max_seqs,
        eos_ids=(0,),
        clock=clock,
    )


def pair(uid: int, arrival_s: float, num_output: int = 3, kind: str = "chat") -> Any:
    truth = SimRequest(
        uid=uid,
        kind=kind,
        arrival_s=arrival_s,
        prompt=(Part(uid, 20),),
        num_output=num_output,
        max_tokens=num_output,
        hints=Hints(),
        answer=uid,
    )
    request = msgspec.structs.replace(truth.request(), prompt_ids=prompt_ids(truth, 0, 512))
    return truth, request


def watch(first: int, end: int, long: str | None = None) -> Watch:
    return Watch(first, end, Window(0.0, 100.0), long)


def test_requests_come_when_they_are_due_and_wait_for_the_step_under_way() -> None:
    clock = FakeTime()
    seen = play(
        engine(clock),
        [pair(0, 0.0), pair(1, 0.005), pair(2, 1.0)],
        watch(0, 3),
        clock=clock,
        sleep=clock.sleep,
    )
    lives = seen.watch.lives
    assert [lives[uid].ready_s for uid in range(3)] == pytest.approx([0.010, 0.020, 1.010])
    assert [lives[uid].end_s for uid in range(3)] == pytest.approx([0.030, 0.040, 1.030])
    assert all(life.is_done and life.num_tokens == 3 for life in lives.values())
    assert seen.busy_s == pytest.approx(0.07)
    assert seen.wall_s == pytest.approx(1.030)
    assert seen.watch.window.output_tokens == 9
    assert seen.watch.window.prompt_tokens == 60


def test_what_does_not_count_is_cut_off_and_leaves_nothing_behind() -> None:
    clock = FakeTime()
    core = engine(clock)
    seen = play(
        core, [pair(0, 0.0), pair(1, 0.0, 400)], watch(0, 1), clock=clock, sleep=clock.sleep
    )
    assert seen.watch.lives[0].is_done
    assert not core.has_work
    assert not core.ledger.pool.num_referenced


def test_a_run_that_does_not_end_is_an_error() -> None:
    clock = FakeTime()
    with pytest.raises(TimeoutError, match="1 requests"):
        play(
            engine(clock),
            [pair(0, 0.0, 900)],
            watch(0, 1),
            clock=clock,
            sleep=clock.sleep,
            limit_s=1.0,
        )


def test_a_refused_request_is_a_failure_and_not_waited_for() -> None:
    clock = FakeTime()
    truth, request = pair(0, 0.0)
    too_long = msgspec.structs.replace(request, prompt_ids=[17] * 5000)
    seen = play(engine(clock), [(truth, too_long)], watch(0, 1), clock=clock, sleep=clock.sleep)
    assert seen.watch.lives[0].failure == "error"


def test_gaps_beside_a_long_prompt_end_with_its_first_token() -> None:
    clock = FakeTime()
    core = engine(clock)
    seen = play(
        core,
        [pair(0, 0.0, 9), pair(1, 0.035, 1, kind="doc")],
        watch(0, 2, long="doc"),
        clock=clock,
        sleep=clock.sleep,
    )
    assert seen.watch.beside_long.bins.sum() == 1  # the one step that computed it
    assert seen.watch.gaps["chat"].bins.sum() == 8


def test_what_is_sustained_is_tokens_over_time_without_the_start() -> None:
    clock = FakeTime()
    core = engine(clock, max_seqs=2)
    requests = [pair(uid, 0.0, 4) for uid in range(40)]
    assert sustained(core, requests, 2, ahead=3, clock=clock) == pytest.approx(200.0)
    assert not core.has_work


def test_too_few_requests_are_said_to_be_too_few() -> None:
    clock = FakeTime()
    with pytest.raises(ValueError, match="too few"):
        sustained(engine(clock), [pair(0, 0.0)], 0, ahead=3, clock=clock)


@settings(max_examples=20, deadline=None)
@given(
    arrivals=st.lists(st.floats(0.0, 0.5), min_size=1, max_size=12),
    lengths=st.lists(st.integers(1, 30), min_size=12, max_size=12),
    slots=st.integers(1, 5),
)
def test_every_request_ends_once_with_all_its_tokens(
    arrivals: list[float], lengths: list[int], slots: int
) -> None:
    clock = FakeTime()
    requests = [pair(uid, at, lengths[uid]) for uid, at in enumerate(sorted(arrivals))]
    seen = play(
        engine(clock, max_seqs=slots),
        requests,
        watch(0, len(requests)),
        clock=clock,
        sleep=clock.sleep,
    )
    for truth, _ in requests:
        life = seen.watch.lives[truth.uid]
        assert life.is_done
        assert life.num_tokens == truth.num_output
        assert truth.arrival_s < life.ready_s <= life.end_s
    assert seen.watch.window.output_tokens == sum(truth.num_output for truth, _ in requests)


def test_prompts_differ_from_each_other_and_are_the_same_every_time() -> None:
    first, second = (pair(uid, 0.0)[0] for uid in (1, 2))
    assert prompt_ids(first, 7, 640) == prompt_ids(first, 7, 640)
    assert prompt_ids(first, 7, 640) != prompt_ids(second, 7, 640)
    assert prompt_ids(first, 7, 640) != prompt_ids(first, 8, 640)
    assert min(prompt_ids(first, 7, 640)) >= 16


def played_run(seed: int = 1, variant: str = "plain", **changes: Any) -> Run:
    clock = FakeTime()
    core = engine(clock)
    requests = [pair(0, 0.0, 5), pair(1, 0.0, 2, kind="deep"), pair(2, 0.5, 5)]
    seen = play(core, requests, watch(0, 3), clock=clock, sleep=clock.sleep)
    fields: dict[str, Any] = {
        "regime": "mixed",
        "load": 0.95,
        "seed": seed,
        "variant": variant,
        "rate": 2.0,
        "at_s": 0.0,
        "others_cpu_share": 0.0,
    }
    return run_of(seen, core, [10.0, 20.0, 30.0], **(fields | changes))


def test_a_run_keeps_every_request_and_every_gap() -> None:
    run = played_run()
    assert run.kinds["chat"].uids == [0, 2]
    assert run.kinds["chat"].ttft == [100, 100]
    assert run.kinds["chat"].e2e == [500, 500]
    assert run.kinds["deep"].e2e == [200]
    assert sum(run.kinds["chat"].gaps.values()) == 8
    assert run.schedule_us[0] == 20.0
    assert run.failures == 0
    assert keyed([run], "deep", "e2e") == {(1, 1): 20.0}
    assert keyed([run], "doc", "e2e") == {}


def test_runs_are_pooled_by_seed_and_bins_add_up() -> None:
    runs = [played_run(1), played_run(2)]
    assert keyed(runs, "chat", "ttft") == {(s, u): 10.0 for s in (1, 2) for u in (0, 2)}
    summary = pooled(run.kinds["chat"].gaps for run in runs)
    assert summary is not None
    assert summary.count == 16
    assert summary.p99.value == pytest.approx(10.0, rel=0.01)
    assert pooled([]) is None


def test_bins_are_those_of_the_histogram() -> None:
    gaps = Gaps()
    gaps.add(3.0, 5)
    gaps.add(700.0)
    assert sorted(bins_of(gaps).values()) == [1, 5]
    assert pooled([bins_of(gaps)]) is not None


def test_a_document_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "below" / "result.json"
    assert read(path) == Document()
    document = Document(runs=[played_run(1), played_run(2)], saturation={"mixed": 3.5})
    document.prices = flat_prices(1.0, 0.5)
    write(path, document)
    assert read(path) == document
    assert len(path.read_text().splitlines()) == 3
    assert document.has(("mixed", 0.95, 2, "plain"))
    assert not document.has(("mixed", 0.95, 3, "plain"))
    assert [run.seed for run in document.of("mixed", 0.95, "plain")] == [1, 2]


def test_a_candidate_is_judged_by_the_first_token_or_beside_a_long_prompt_by_gaps() -> None:
    slow = Tried.of(played_run(), "open 128")
    assert slow.ttft_p99 == 10.0
    assert slow.gap_p99 == pytest.approx(10.0, rel=0.01)
    other = msgspec.structs.replace(slow, name="budget 128", ttft_p99=5.0, gap_p99=20.0)
    assert scheduling.best([slow, other], is_long=False) is other
    assert scheduling.best([slow, other], is_long=True) is slow


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


def test_another_policy_goes_first_with_every_seed() -> None:
    orders = [scheduling.rotated("abc", turn) for turn in range(3)]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    assert scheduling.rotated([], 2) == []


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


def test_processor_time_counts_idling_and_nothing_of_others() -> None:
    clock = CpuClock()
    before = clock()
    clock.sleep(100.0)
    assert 100.0 <= clock() - before < 101.0


def test_a_bounded_runner_has_fewer_blocks_and_the_clocks_time() -> None:
    clock = FakeTime()
    inner = FakeRunner(num_blocks=100, max_len=1024, prices=flat_prices(8.0, 0.0))
    runner = BoundedRunner(inner, 11, clock)  # type: ignore[arg-type]
    assert (runner.num_blocks, runner.max_len) == (11, 160)
    core = EngineCore(
        runner,
        batcher=BatcherConfig(),
        cache=CacheConfig(),
        max_seqs=2,
        eos_ids=(),
        clock=clock,
    )
    params = SamplingParams(max_tokens=2, temperature=0.0)
    assert not core.add(Request(uid=0, prompt_ids=[17] * 20, params=params))
    core.step()
    assert core.log.last is not None
    assert sum(launch.actual_ms for launch in core.log.last.launches) == 0.0  # nothing passed
    assert (runner.num_host_blocks, runner.swap_ms) == (0, 0.0)
    assert isinstance(Played(watch(0, 1)).step_ms, Gaps)
    assert StepOutput((), ()).run_ms == 0.0


def test_the_long_context_is_the_bundled_shape(tmp_path: Path) -> None:
    config = bundled(tmp_path, context=40_960)
    assert config.model.hf_config["max_position_embeddings"] == 40_960
    assert config.model.hf_config["hidden_size"] == 192
    assert bundled(tmp_path).model.path == "demo"


def test_remembered_prices_are_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "profile-1.json").write_text("{}")
    (tmp_path / "kernels").mkdir()
    forget_prices(tmp_path)
    assert not list(folder.iterdir())
    assert (tmp_path / "kernels").exists()


def test_options(tmp_path: Path) -> None:
    args = scheduling.parse(["tune", "matrix", "--cache", str(tmp_path), "--quick"])
    assert args.parts == ["tune", "matrix"]
    assert args.seeds == [1]
    with pytest.raises(SystemExit):
        scheduling.parse(["nothing", "--cache", str(tmp_path)])
