"""The captured runner on a device double: the engine's answers are those of the plain runner, token
for token, with every program captured and replayed."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from prelude.cache.layout import KVLayout
from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.engine.core import EngineCore
from prelude.graphs.buckets import Buckets
from prelude.runner.captured import CapturedRunner
from prelude.runner.captured_programs import NoPlanning
from prelude.runner.device_slots import _int_row
from prelude.types.plan import SlotAdmit
from prelude.types.request import Request, SamplingParams, TokenEvent
from tests.device_double import DeviceDouble
from tests.model_samples import load, save_checkpoint
from tests.parity import mixed_prompts, open_engine
from tests.test_differential import answers, some_params, story

BLOCK = 8
BUCKETS = Buckets(decode=(1, 2, 4, 6), prefill=(8, 16, 20), max_rows=6)
PLAIN = {
    "graphs.capture": "eager",
    "runner.batch_invariant": True,  # steps are composed by the clock: last bits must not follow
    "cache.block_size": BLOCK,
    "cache.num_blocks": 30,
    "model.max_len": 112,
    "runner.max_seqs": 6,
    "batcher.max_step_tokens": 20,
    "batcher.min_chunk": 3,
    "batcher.headroom": 1,
}


def captured_runner(
    folder: Path,
    queue: DeviceDouble,
    buckets: Buckets = BUCKETS,
    captures: bool = True,
) -> CapturedRunner:
    decoder = load(folder)
    spec = decoder.spec
    layout = KVLayout(spec.num_layers, BLOCK, spec.num_kv_heads, spec.head_dim, torch.float32)
    return CapturedRunner(
        decoder,
        layout,
        queue,
        NoPlanning(),
        num_blocks=30,
        max_len=112,
        max_seqs=6,
        max_step_tokens=20,
        buckets=buckets,
        captures=captures,
    )


def captured_engine(
    runner: CapturedRunner, eos_ids: tuple[int, ...], buckets: Buckets = BUCKETS
) -> EngineCore:
    return EngineCore(
        runner,
        batcher=BatcherConfig(max_step_tokens=20, min_chunk=3, headroom=1),
        cache=CacheConfig(block_size=BLOCK, num_blocks=30),
        max_seqs=6,
        eos_ids=eos_ids,
        buckets=buckets,
    )


def capture_all(runner: CapturedRunner) -> None:
    while runner.programs.ready < runner.programs.total:
        runner.upkeep()


def requests(count: int, **more: Any) -> list[Request]:
    rng = random.Random(5)
    return [
        Request(uid=uid, prompt_ids=prompt, params=SamplingParams(**some_params(rng) | more))
        for uid, prompt in enumerate(mixed_prompts(count, 60, 97, seed=5))
    ]


@pytest.mark.parametrize("when", ["before", "while serving", "never"])
def test_answers_are_those_of_the_plain_runner(when: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3")
    asked = requests(24)
    plain_core = open_engine(tmp_path, PLAIN)
    eos_ids = plain_core.ledger._eos_ids
    plain = answers(plain_core, asked)
    queue = DeviceDouble()
    runner = captured_runner(tmp_path, queue, captures=when != "never")
    if when == "before":
        capture_all(runner)
    found = answers(captured_engine(runner, eos_ids), asked)
    assert len(queue.graphs) == (0 if when == "never" else runner.programs.total)
    assert found.keys() == plain.keys()
    for key in plain:
        assert story(found[key]) == story(plain[key]), key
    if when == "before":
        assert sum(graph.num_replays for graph in queue.graphs) > 100


def test_logprobs_of_prompt_and_output(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3")
    asked = requests(6, prompt_logprobs=2, logprobs=3, n=1, temperature=0.0)
    plain_core = open_engine(tmp_path, PLAIN)
    eos_ids = plain_core.ledger._eos_ids
    plain = answers(plain_core, asked)
    found = answers(captured_engine(captured_runner(tmp_path, DeviceDouble()), eos_ids), asked)
    for key in plain:
        assert scores(found[key]) == pytest.approx(scores(plain[key]), abs=1e-4)
        assert len(scores(plain[key])) > len(asked[key[0]].prompt_ids)


def scores(events: list[TokenEvent]) -> list[float]:
    """Every logprob a client gets, in order."""
    parts = [
        part
        for event in events
        for part in (*(event.prompt_logprobs or []), *(event.logprobs or []))
        if part is not None
    ]
    return [value for part in parts for value in (part.logprob, *part.top_logprobs)]


def test_sizes_without_a_program_are_said_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, "qwen3")
    buckets = Buckets(decode=(1,), prefill=(8,), max_rows=6)
    runner = captured_runner(tmp_path, DeviceDouble(), buckets=buckets)
    asked = requests(8)
    plain = answers(open_engine(tmp_path, PLAIN), asked)
    found = answers(captured_engine(runner, (2,), buckets), asked)
    assert {key: story(found[key]) for key in found} == {key: story(plain[key]) for key in plain}
    said = [record.message for record in caplog.records if "no captured program" in record.message]
    assert said
    assert len(said) == len(set(said))


def test_submit_runs_nothing_and_results_wait_for_collect(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3")
    queue = DeviceDouble()
    runner = captured_runner(tmp_path, queue)
    core = captured_engine(runner, ())
    assert core.add(Request(uid=0, prompt_ids=[5, 6, 7], params=SamplingParams())) == []
    before = len(queue.pending)
    assert before == 0
    while core.has_work:
        core.step()
    core.ledger.check()
    runner.close()
    assert not queue.pending


def test_prices_cover_every_program_once_all_are_captured(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3")
    runner = captured_runner(tmp_path, DeviceDouble())
    first = runner.prices
    assert first.body.counts == (1, 6, 8, 20)
    assert [curve.counts for curve in first.heads] == [(6,)] * 3
    capture_all(runner)
    prices = runner.prices
    assert prices is not first
    assert prices.body.counts == (1, 2, 4, 6, 8, 16, 20)
    assert all(ms > 0 for ms in prices.body.ms)
    assert [curve.counts for curve in prices.heads] == [(1, 2, 4, 6)] * 3
    assert min(prices.ms_per_ctx_token, prices.ms_per_pair) > 0


def test_any_number_of_ends_where_none_is_forbidden() -> None:
    params = SamplingParams(stop_token_ids=tuple(range(200)))
    admit = SlotAdmit(1, 1, params, 0, (5, 6), 2, params.stop_token_ids)
    assert list(_int_row(admit)[:4]) == [1, 6, 0, 0]
