"""The simulator held against step logs: its own come out exactly, and a machine that is slower than
its price list is recognised."""

from dataclasses import replace
from math import inf
from pathlib import Path

import msgspec
import pytest

from prelude.cli import main
from prelude.conf.schema import Policy
from prelude.conf.simulate import Limit, SimArrival, SimDevice, SimulateConfig
from prelude.engine.steplog import RequestRecord, StepLog, StepRecord, read_step_log
from prelude.simulate.recorded import read_recording
from prelude.simulate.records import Recorder
from prelude.simulate.replay import ReplayResult, replay
from prelude.simulate.replica import Replica
from prelude.simulate.run import simulate
from prelude.simulate.traffic import draw
from tests.simulations import device, small

NUM = 120


def record(path: Path, on: SimDevice, limit: Limit = Limit.exact) -> tuple[Recorder, Replica]:
    """A simulated engine that writes a step log."""
    config = small(num_requests=NUM, rate=12.0, limit=limit)
    recorder = Recorder(0, NUM)
    log = StepLog(path)
    engine = Replica(0, on, config.batcher, recorder, log=log)
    for request in draw(config.traffic, 12.0):
        engine.advance(request.arrival_s)
        engine.add(request)
    engine.advance(inf)
    log.close()
    return recorder, engine


def replayed(path: Path, on: SimDevice) -> ReplayResult:
    return replay(replace(small(on=on), replay=str(path)))


@pytest.mark.parametrize("limit", list(Limit))
def test_its_own_log_comes_out_as_it_was(tmp_path: Path, limit: Limit) -> None:
    path = tmp_path / "steps.jsonl"
    on = device(learn=False)
    record(path, on, limit)
    result = replayed(path, on)
    assert result.num_requests == NUM and result.num_left_out == 0
    assert result.engine["all"].mean == pytest.approx(0.0, abs=1e-9)
    assert result.listed["decode"].mean == pytest.approx(0.0, abs=1e-9)
    assert result.fit.overhead_ms == pytest.approx(0.0, abs=0.1)
    assert sum(kind.num for kind in result.classes.values()) > NUM / 4
    for kind in result.classes.values():
        for metric in (kind.ttft_ms, kind.e2e_ms, kind.itl_ms):
            assert all(pair.error < 0.02 for pair in metric.values())
        assert kind.request_error["e2e_ms"] < 0.01


def test_a_slower_machine_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    record(path, device(bias=1.3, noise=0.05, overhead_ms=0.5, overhead_row_ms=0.1))
    result = replayed(path, device())
    assert result.fit.factor_p50 == pytest.approx(1.3, rel=0.03)
    assert result.fit.overhead_ms == pytest.approx(0.5, abs=0.1)
    assert result.fit.overhead_row_ms == pytest.approx(0.1, abs=0.03)
    assert result.listed["all"].total == pytest.approx(1 / 1.3, rel=0.05)
    assert result.engine["all"].mean < result.listed["all"].mean  # the engine's prices learn
    for kind in result.classes.values():
        assert kind.e2e_ms["mean"].error < 0.1


def test_real_gaps_are_those_between_tokens(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    recorder, _ = record(path, device())
    real = read_recording(path).gaps(-1.0)
    counts = sum(int(gaps.bins.sum()) for gaps in real.values())
    assert counts == recorder.num_output - NUM
    total_ms = sum(gaps.total_ms for gaps in real.values())
    assert total_ms == pytest.approx(sum(gaps.total_ms for gaps in recorder.gaps.values()))


def test_the_traffic_of_a_log_is_the_traffic_that_was(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    recorder, _ = record(path, device(), Limit.loose)
    wanted = sorted(recorder.lives.values(), key=lambda life: life.truth.arrival_s)
    found = read_recording(path).traffic()
    assert [r.num_prompt for r in found] == [life.truth.num_prompt for life in wanted]
    assert [r.num_output for r in found] == [life.truth.num_output for life in wanted]
    assert found[0].arrival_s == 0.0
    last_s = wanted[-1].truth.arrival_s - wanted[0].truth.arrival_s
    assert found[-1].arrival_s == pytest.approx(last_s)


def test_a_step_log_is_traffic_for_other_policies(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    record(path, device())
    config = small(
        rate=None, arrival=SimArrival.trace, trace=str(path), trace_speed=2.0, num_requests=100
    )
    config.batcher.policy = Policy.priority
    result = simulate(replace(config, warmup_share=0.0, cooldown_share=0.0))
    assert result.total.num_completed == 100 and result.policy == "priority"
    kinds = {life.kind for life in read_recording(path).traffic()[:100]}
    assert set(result.classes) == kinds and kinds.isdisjoint(config.traffic.classes)
    assert sum(report.num_completed for report in result.classes.values()) == 100


def test_of_several_runs_the_last_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    record(path, device())
    record(path, device())
    recording = read_recording(path)
    assert len(recording.requests) == NUM
    assert [step.step for step in recording.steps] == list(range(1, len(recording.steps) + 1))


def test_aborted_requests_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    record(path, device())
    records = list(read_step_log(path))
    first = next(r for r in records if isinstance(r, RequestRecord))
    aborted = msgspec.structs.replace(first, finish_reason="abort")
    lines = [msgspec.json.encode(aborted if r is first else r) for r in records]
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert replayed(path, device()).num_left_out == 1


def test_a_log_without_requests_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    record(path, device())
    steps = [r for r in read_step_log(path) if isinstance(r, StepRecord)]
    path.write_bytes(b"\n".join(msgspec.json.encode(step) for step in steps) + b"\n")
    with pytest.raises(ValueError, match="no request came to its end"):
        replayed(path, device())


def test_cached_beginnings_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    record(path, device())
    records = [
        msgspec.structs.replace(r, num_cached=32)
        if isinstance(r, RequestRecord) and r.num_prompt > 40
        else r
        for r in read_step_log(path)
    ]
    path.write_bytes(b"\n".join(map(msgspec.json.encode, records)) + b"\n")
    recording = read_recording(path)
    long = [r for r in recording.traffic() if r.num_prompt > 40]
    assert len({r.prompt[0] for r in long}) == 1 and long[0].prompt[0].length == 32
    assert len({r.prompt[1].text for r in long}) == len(long)


def test_the_command_prints_a_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "steps.jsonl", tmp_path / "replay.json"
    on = device()
    record(path, on)
    keys = ("floor_ms", "weights_ms", "token_ms", "max_seqs", "num_blocks", "max_len")
    overrides = [f"device.{key}={getattr(on, key)}" for key in keys]
    assert main(["simulate", f"replay={path}", f"result={out}", *overrides]) == 0
    shown = capsys.readouterr()
    result = msgspec.json.decode(shown.out, type=ReplayResult)
    assert msgspec.json.decode(out.read_bytes(), type=ReplayResult) == result
    assert result.num_requests == NUM
    assert "the same arrivals" in shown.err and "us a row" in " ".join(shown.err.split())


def test_a_replay_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replayed(tmp_path / "nothing", SimulateConfig().device)
