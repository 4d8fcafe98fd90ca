"""Embeddings through the engine: what they are held against, and what they leave behind."""

import random
from array import array
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.engine.core import EngineCore
from prelude.runner.fake import fake_embedding
from prelude.types.request import Request, SamplingParams, TokenEvent
from tests.device_double import DeviceDouble
from tests.engines import VOCAB, expected, make_core, request, run
from tests.model_samples import reference, save_checkpoint
from tests.parity import mixed_prompts, open_engine
from tests.test_runner_captured import PLAIN, capture_all, captured_engine, captured_runner

ONCE = SamplingParams(temperature=0.0, max_tokens=1)


def embed(uid: int, prompt: list[int], salt: str = "") -> Request:
    return Request(uid=uid, prompt_ids=prompt, params=ONCE, embeds=True, cache_salt=salt)


def fake(prompt: list[int]) -> bytes:
    return fake_embedding(prompt, VOCAB)


def found(events: list[TokenEvent]) -> dict[int, bytes]:
    ends = [event for event in events if event.embedding is not None]
    assert all(event.finish_reason == "stop" and not event.token_ids for event in ends)
    embeddings = {event.uid: event.embedding or b"" for event in ends}
    assert len(embeddings) == len(ends)
    return embeddings


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("policy", ["class_aware", "fcfs", "priority"])
def test_one_event_each_and_nothing_left(depth: int, policy: str) -> None:
    core = make_core(depth=depth, policy=policy)
    prompts = {uid: [uid + 1] * (1 + 9 * uid) for uid in range(8)}
    for uid, prompt in prompts.items():
        assert core.add(embed(uid, prompt)) == []
    events = run(core)
    assert len(events) == len(prompts)
    assert found(events) == {uid: fake(prompt) for uid, prompt in prompts.items()}
    assert core.ledger.pool.num_referenced == 0
    stats = core.stats()
    assert (stats.output_tokens, stats.wasted_tokens) == (0, 0)
    assert stats.prompt_tokens == sum(map(len, prompts.values()))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_beside_answers_under_pressure(data: st.DataObject) -> None:
    """Few blocks, chunks, preemption, shared prefixes, aborts: all are what they are alone."""
    core = make_core(
        num_blocks=data.draw(st.integers(26, 40)),
        max_len=100,
        max_seqs=data.draw(st.integers(1, 5)),
        depth=data.draw(st.sampled_from([1, 2])),
        num_host_blocks=data.draw(st.sampled_from([0, 16])),
        max_step_tokens=data.draw(st.sampled_from([5, 16, 32])),
    )
    wanted: dict[int, bytes] = {}
    answers: dict[int, list[int]] = {}
    shared = [7] * 21
    asked = data.draw(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=12))
    gone = data.draw(st.sets(st.integers(0, 11), max_size=3))
    events: list[TokenEvent] = []
    for uid, (embeds, size) in enumerate(asked):
        prompt = (shared + [uid + 1] * size)[-size:] if uid % 2 else [uid + 1] * size
        if embeds:
            wanted[uid] = fake(prompt)
            events += core.add(embed(uid, prompt))
        else:
            answers[uid] = expected(prompt, 5)
            events += core.add(request(prompt, uid=uid, max_tokens=5, ignore_eos=True))
        if data.draw(st.booleans()) and core.has_work:
            events += core.step()
            core.ledger.check()
    for uid in gone:
        events += core.abort(uid)
    events += run(core)
    ends = [event.uid for event in events if event.finish_reason]
    assert sorted(ends) == list(range(len(asked)))
    aborted = {event.uid for event in events if event.finish_reason == "abort"}
    assert aborted <= gone
    assert found(events) == {uid: e for uid, e in wanted.items() if uid not in aborted}
    for uid, answer in answers.items():
        if uid not in aborted:
            assert [t for e in events if e.uid == uid for t in e.token_ids] == answer
    assert core.ledger.pool.num_referenced == 0


def test_a_prefix_is_computed_once_within_a_salt() -> None:
    core = make_core()
    prompt = list(range(1, 30))
    core.add(embed(0, prompt))
    run(core)
    events: list[TokenEvent] = []
    for uid, salt in ((1, ""), (2, "theirs")):
        core.add(embed(uid, prompt, salt))
        events += run(core)
    assert [event.num_cached_tokens for event in events] == [28, 0]
    assert found(events) == {1: fake(prompt), 2: fake(prompt)}


def test_what_is_refused() -> None:
    core = make_core(max_len=32)
    two = SamplingParams(max_tokens=2)
    (event,) = core.add(Request(uid=1, prompt_ids=[1], params=two, embeds=True))
    assert event.finish_reason == "error"
    (event,) = core.add(embed(2, [1] * 32))
    assert event.finish_reason == "error"
    assert not core.has_work


def _reference(folder: Path, prompt: list[int]) -> torch.Tensor:
    """Transformers' last hidden state, behind the final norm, of the last token."""
    model = reference(folder)
    with torch.no_grad():
        hidden: torch.Tensor = model.model(torch.tensor([prompt])).last_hidden_state
    return hidden[0, -1]


def _vectors(core: EngineCore, prompts: list[list[int]]) -> dict[int, torch.Tensor]:
    """Of all prompts, beside as many answers to them."""
    for uid, prompt in enumerate(prompts):
        assert core.add(embed(uid, prompt)) == []
        assert core.add(request(prompt, uid=100 + uid, max_tokens=3)) == []
    embeddings = found(run(core, check=False))
    core.ledger.check()
    return {uid: torch.tensor(array("f", data)) for uid, data in embeddings.items()}


@pytest.mark.parametrize("family", ["qwen3", "llama-biases"])
def test_equals_transformers(family: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, family)
    prompts = mixed_prompts(12, 60, 97, seed=3)
    core = open_engine(tmp_path, PLAIN)
    torch.set_num_threads(1)
    for uid, vector in _vectors(core, prompts).items():
        torch.testing.assert_close(vector, _reference(tmp_path, prompts[uid]), atol=2e-4, rtol=1e-3)
    core.close()


@pytest.mark.parametrize("captures", [True, False])
def test_captured_runner_equals_transformers(captures: bool, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3")
    prompts = [*mixed_prompts(10, 60, 97, seed=4), [random.Random(0).randrange(3, 97)]]
    runner = captured_runner(tmp_path, DeviceDouble(), captures=captures)
    if captures:
        capture_all(runner)
    for uid, vector in _vectors(captured_engine(runner, (0,)), prompts).items():
        torch.testing.assert_close(vector, _reference(tmp_path, prompts[uid]), atol=2e-4, rtol=1e-3)
