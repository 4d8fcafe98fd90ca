"""The scheduling benchmark's engine: the feeder, clocks, what counts, and its options."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import scheduling
from benchmarks.scheduling import Session
from benchmarks.scheduling_cells import OURS
from benchmarks.scheduling_engine import BoundedRunner, bundled, forget_prices
from benchmarks.scheduling_play import (
    Played,
    TurnClock,
    in_turns,
    playing,
    prompt_ids,
    sustained,
)
from benchmarks.scheduling_record import read
from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.engine.core import EngineCore
from prelude.runner.fake import FakeRunner
from prelude.simulate.records import Gaps
from prelude.types.plan import StepOutput
from prelude.types.prices import flat_prices
from prelude.types.request import Request, SamplingParams
from tests.scheduling_runs import FakeTime, engine, pair, play, watch


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


def test_another_policy_goes_first_with_every_seed() -> None:
    orders = [scheduling.rotated("abc", turn) for turn in range(3)]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    assert scheduling.rotated([], 2) == []


def test_who_waits_for_its_turn_loses_no_time_and_idling_takes_none() -> None:
    host = FakeTime()
    clocks = [TurnClock(host), TurnClock(host)]
    runs = []
    for clock, step_ms in zip(clocks, (10.0, 20.0), strict=True):
        runner = FakeRunner(prices=flat_prices(step_ms, 0.0), sleep=host.step)
        core = EngineCore(
            runner,
            batcher=BatcherConfig(),
            cache=CacheConfig(),
            max_seqs=4,
            eos_ids=(),
            clock=clock,
        )
        requests = [pair(0, 0.0), pair(1, 5.0)]
        runs.append(playing(core, requests, watch(0, 2), clock=clock, sleep=clock.sleep))
    begun_s = host()
    played = in_turns(list(zip(runs, clocks, strict=True)), slice_s=0.015)
    assert host() - begun_s == pytest.approx(2 * 3 * 0.030)
    for one, step_s in zip(played, (0.010, 0.020), strict=True):
        lives = one.watch.lives
        assert lives[0].end_s == pytest.approx(3 * step_s)
        assert lives[1].end_s == pytest.approx(5.0 + 3 * step_s)
        assert one.busy_s == pytest.approx(6 * step_s)
    now_s = clocks[0]()
    host.sleep(1.0)
    assert clocks[0]() == pytest.approx(now_s + 1.0), "outside of turns it goes on"


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


def test_the_matrix_measures_saturation_before_each_trace_if_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def runs(
        self: Session, name: str, load: float, seed: int, variants: dict[str, object]
    ) -> list[object]:
        done.append(f"{seed} {list(variants)}")
        return []

    monkeypatch.setattr(Session, "save", lambda self: None)
    monkeypatch.setattr(Session, "saturate", lambda self, name: done.append(name))
    monkeypatch.setattr(Session, "runs", runs)

    def matrix(*options: str) -> list[str]:
        done.clear()
        cell = ["--regimes", "bursts", "--seeds", "1", "2", "--variants", "plain", OURS]
        args = scheduling.parse(["matrix", "--cache", str(tmp_path), *cell, *options])
        document = read(tmp_path / "none.json")
        scheduling.matrix(Session(args, None, document))  # type: ignore[arg-type]
        return list(done)

    traces = [f"1 ['plain', '{OURS}']", f"2 ['{OURS}', 'plain']"]
    assert matrix() == traces
    assert matrix("--resaturate") == ["mixed", traces[0], "mixed", traces[1]]


def test_options(tmp_path: Path) -> None:
    args = scheduling.parse(["tune", "matrix", "--cache", str(tmp_path), "--quick"])
    assert args.parts == ["tune", "matrix"]
    assert args.seeds == [1]
    with pytest.raises(SystemExit):
        scheduling.parse(["nothing", "--cache", str(tmp_path)])
