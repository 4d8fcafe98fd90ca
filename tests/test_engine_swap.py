"""Engines with room for KV on the host: every answer is that of an engine with memory for all,
nothing is lost, and host memory is empty in the end."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.conf.schema import MechanismsConfig, Policy
from prelude.engine.core import EngineCore
from prelude.engine.steplog import StepLog, StepRecord, read_step_log
from prelude.types.request import Request
from prelude.types.service import Hints
from tests.engines import CarefulRunner, Clock, expected, make_core, moody, request, run, tokens_of
from tests.test_engine_core import _storm
from tests.test_engine_overlap import some_requests, stories


def labelled(count: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    return [
        msgspec.structs.replace(each, hints=Hints(priority=rng.randint(0, 3)))
        for each in some_requests(count, seed)
    ]


def tight(rng: random.Random, **changes: Any) -> EngineCore:
    """Few blocks, some of them on the host, and thresholds that matter on a fake's prices."""
    drawn: dict[str, Any] = {
        "num_blocks": rng.choice([34, 48, 80]),
        "num_host_blocks": rng.choice([10, 30, 200]),
        "swap_ms": rng.choice([0.0, 0.01, 0.05]),
        "max_seqs": rng.choice([1, 3, 8]),
        "depth": rng.choice([1, 2]),
        "prefix": rng.random() < 0.5,
        "probation_ms": rng.choice([3.0, 10.0, 1000.0]),
        "doc_ms": rng.choice([1.1, 5.0]),
        "step_ms": rng.choice([1.0, 2.0, 50.0]),
    }
    return make_core(model=moody, **(drawn | changes))


def is_home(core: EngineCore) -> bool:
    core.ledger.check()
    pool, host = core.ledger.pool, core.ledger.shelf.host
    return pool.num_referenced == 0 and host.num_free == host.num_blocks


@pytest.mark.parametrize("policy", list(Policy))
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32))
def test_answers_are_those_of_an_engine_with_room(policy: Policy, seed: int) -> None:
    requests = labelled(20, seed)
    roomy = make_core(num_blocks=2000, max_seqs=64, model=moody)
    core = tight(random.Random(seed), policy=policy)
    assert stories(core, requests, seed) == stories(roomy, requests, seed)
    assert is_home(core)


@pytest.mark.parametrize("policy", [Policy.fcfs, Policy.class_aware])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_any_mix_of_arrivals_aborts_and_stops_loses_nothing(policy: Policy, seed: int) -> None:
    rng = random.Random(seed)
    core = tight(rng, policy=policy)
    finished = _storm(core, rng, 80)
    assert all(count == 1 for count in finished.values())
    assert is_home(core)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("prefix", [True, False])
def test_thousands_of_events_swap_and_lose_nothing(depth: int, prefix: bool) -> None:
    rng = random.Random(7)
    core = tight(
        rng,
        num_blocks=40,
        num_host_blocks=25,
        swap_ms=0.0,
        max_seqs=6,
        depth=depth,
        prefix=prefix,
        policy=Policy.fcfs,
    )
    finished = _storm(core, rng, 2500)
    assert all(count == 1 for count in finished.values())
    stats = core.stats()
    assert stats.num_swaps > 30
    assert stats.num_preemptions > 0, "the host is full at times"
    assert stats.num_swaps < stats.num_swapped_blocks < 2 * 40 * stats.num_swaps
    assert is_home(core) and core.ledger.num_free_slots == 6


def pressed(**changes: Any) -> EngineCore:
    """Two that grow together into room for one and a half."""
    core = make_core(
        **({"num_blocks": 24, "prefix": False, "num_host_blocks": 40, "max_len": 64} | changes)
    )
    for uid in range(2):
        core.add(request([uid + 1] * 20, uid=uid, max_tokens=40, ignore_eos=True))
    return core


def test_nothing_is_computed_again() -> None:
    log = StepLog()
    core = pressed(log=log)
    answers = tokens_of(run(core))
    assert answers == {(uid, 0): expected([uid + 1] * 20, 40) for uid in range(2)}
    assert (core.stats().num_swaps, core.stats().num_preemptions) == (1, 0)
    rows = [row for record in log for launch in record.launches for row in launch.rows]
    for seq_id in range(2):
        starts = [(start, count) for owner, start, count in rows if owner == seq_id]
        ends = [0, *(start + count for start, count in starts)]
        assert [start for start, _ in starts] == ends[:-1], "every token once, in order"


def test_switched_off_or_too_dear_it_is_computed_again() -> None:
    off = pressed(use=MechanismsConfig(swap=False))
    dear = pressed(swap_ms=1.0)
    for core in (off, dear, pressed(num_host_blocks=0)):
        answers = tokens_of(run(core))
        assert answers == {(uid, 0): expected([uid + 1] * 20, 40) for uid in range(2)}
        assert core.stats().num_swaps == 0 and core.stats().num_preemptions > 0


def test_copies_take_time_and_are_written_down(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    log = StepLog(path)
    clock = Clock()
    core = pressed(swap_ms=0.02, log=log, clock=clock)
    run(core)
    log.close()
    steps = [record for record in read_step_log(path) if isinstance(record, StepRecord)]
    (out,) = [record for record in steps if record.swapped]
    (back,) = [record for record in steps if record.copy_ms and not record.swapped]
    assert out.copy_ms == pytest.approx(back.copy_ms) == pytest.approx(0.02 * 12, abs=0.05)
    assert out.swapped == [1] and back.admitted == [1] and not out.preempted
    assert sum(record.copy_ms for record in steps) == pytest.approx(
        0.02 * core.stats().num_swapped_blocks
    )
    assert all(record.overhead_ms == pytest.approx(0.0, abs=1e-6) for record in steps)


def test_a_swapped_request_can_be_aborted() -> None:
    core = pressed()
    while not core.stats().num_swaps:
        core.step()
    assert not is_home(core)
    (event,) = core.abort(1)
    assert event.finish_reason == "abort" and len(event.token_ids) == 0
    assert core.ledger.num_free_host_blocks == 40
    run(core)
    assert is_home(core)


def test_prompt_logprobs_go_on_where_they_stood() -> None:
    """Two long prompts, a chunk at a time: the younger makes room before its prompt is done."""
    core = make_core(num_blocks=34, num_host_blocks=60, max_step_tokens=8, prefix=False, headroom=1)
    core.add(request([5] * 60, uid=0, max_tokens=60, ignore_eos=True))
    for _ in range(12):
        core.step()
    core.add(request([6] * 50, uid=1, max_tokens=4, prompt_logprobs=0, ignore_eos=True))
    events = run(core)
    (scores,) = [event.prompt_logprobs for event in events if event.prompt_logprobs]
    assert [score and -score.logprob for score in scores] == [None, *range(1, 50)]
    assert is_home(core)


def test_a_lost_copy_is_noticed() -> None:
    """The fake's answers depend on what was copied: these tests can fail."""

    class Forgetful(CarefulRunner):
        def _move(
            self, source: dict[int, int], first: int, target: dict[int, int], to: int
        ) -> None:
            CarefulRunner._move(self, source, first, target, to)
            if target is not self._host:
                target[to * self.block_size] = 3

    runner = Forgetful(num_blocks=24, block_size=4, max_len=64, vocab_size=512, num_host_blocks=40)
    core = pressed(runner=runner)
    answers = tokens_of(run(core))
    assert core.stats().num_swaps == 1
    assert answers[0, 0] == expected([1] * 20, 40)
    assert answers[1, 0] != expected([2] * 20, 40)
