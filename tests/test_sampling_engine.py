"""Sampling through the engine on a real (tiny) model: seeds, penalties, logprobs, and independence
from whatever else is in the batch."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prelude.engine.core import EngineCore
from prelude.types.request import Request, SamplingParams, TokenEvent
from tests.model_samples import reference, reference_logits, save_checkpoint
from tests.parity import mixed_prompts, open_engine

PROMPT = [5, 9, 13, 21, 8]
SETTINGS = {
    "graphs.capture": "eager",
    "cache.block_size": 8,
    "cache.num_blocks": 128,
    "runner.max_seqs": 32,
    "batcher.max_waiting": 4096,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen3")
    save_checkpoint(path, "qwen3")
    return path


@pytest.fixture
def core(folder: Path) -> Iterator[EngineCore]:
    engine = open_engine(folder, SETTINGS)
    torch.set_num_threads(1)
    yield engine
    engine.ledger.check()
    assert engine.ledger.pool.num_referenced == 0
    engine.close()


def submit(core: EngineCore, uid: int, prompt: list[int], **params: Any) -> None:
    params = {"max_tokens": 12, "ignore_eos": True} | params
    request = Request(uid=uid, prompt_ids=prompt, params=SamplingParams(**params))
    assert core.add(request) == []


def drain(core: EngineCore) -> dict[tuple[int, int], list[TokenEvent]]:
    events: dict[tuple[int, int], list[TokenEvent]] = {}
    while core.has_work:
        for event in core.step():
            events.setdefault((event.uid, event.index), []).append(event)
    return events


def answer(core: EngineCore, prompt: list[int], **params: Any) -> list[int]:
    submit(core, 10_000, prompt, **params)
    return [t for e in drain(core)[10_000, 0] for t in e.token_ids]


def test_a_seed_fixes_the_answer_whatever_runs_beside_it(core: EngineCore) -> None:
    params: dict[str, Any] = {"temperature": 0.9, "top_p": 0.9, "seed": 42}
    alone = answer(core, PROMPT, **params)
    assert alone == answer(core, PROMPT, **params)
    assert alone != answer(core, PROMPT, **params | {"seed": 43})
    for uid, prompt in enumerate(mixed_prompts(10, 40, 97)):
        submit(core, uid, prompt, temperature=uid % 3 * 0.7, top_k=uid, logprobs=uid % 4)
    submit(core, 99, PROMPT, **params)
    together = [t for e in drain(core)[99, 0] for t in e.token_ids]
    assert together == alone


def test_choices_differ_and_are_each_reproducible(core: EngineCore) -> None:
    submit(core, 1, PROMPT, temperature=1.0, seed=7, n=4)
    first = {key: [t for e in ev for t in e.token_ids] for key, ev in drain(core).items()}
    submit(core, 1, PROMPT, temperature=1.0, seed=7, n=4)
    again = {key: [t for e in ev for t in e.token_ids] for key, ev in drain(core).items()}
    assert first == again
    assert len({tuple(tokens) for tokens in first.values()}) > 1


def test_first_tokens_are_drawn_from_the_models_distribution(
    core: EngineCore, folder: Path
) -> None:
    probs = torch.softmax(reference_logits(reference(folder), PROMPT)[-1] / 2.0, dim=-1)
    draws = 3000
    for start in range(0, draws, 100):
        submit(core, start, PROMPT, temperature=2.0, seed=start, n=100, max_tokens=1)
    counts = Counter(e.token_ids[0] for events in drain(core).values() for e in events)
    likely = [i for i in range(97) if probs[i] * draws >= 5]
    chi2 = sum((counts[i] - probs[i] * draws) ** 2 / (probs[i] * draws) for i in likely)
    assert chi2 < len(likely) + 5 * math.sqrt(2 * len(likely))


def test_top_k_one_is_greedy(core: EngineCore) -> None:
    assert answer(core, PROMPT, temperature=1.5, top_k=1) == answer(core, PROMPT, temperature=0.0)


def test_logit_bias_forces_and_bans(core: EngineCore) -> None:
    greedy = answer(core, PROMPT, temperature=0.0)
    assert answer(core, PROMPT, temperature=0.0, logit_bias={33: 100.0}) == [33] * 12
    banned = answer(core, PROMPT, temperature=0.0, logit_bias={greedy[0]: -100.0})
    assert greedy[0] not in banned


def test_nothing_but_allowed_tokens(core: EngineCore) -> None:
    allowed = (3, 33, 60)
    for params in ({"temperature": 0.0}, {"temperature": 1.5, "seed": 1, "top_k": 50}):
        assert set(answer(core, PROMPT, allowed_token_ids=allowed, **params)) <= set(allowed)
    biased = answer(
        core, PROMPT, temperature=0.0, allowed_token_ids=allowed, logit_bias={60: 50.0, 7: 100.0}
    )
    assert biased == [60] * 12


def test_a_penalty_ends_with_its_request(core: EngineCore) -> None:
    greedy = answer(core, PROMPT, temperature=0.0)
    answer(core, PROMPT, temperature=0.0, logit_bias={33: 100.0})
    for _ in range(3):
        assert answer(core, PROMPT, temperature=0.0) == greedy


def _penalized(folder: Path, prompt: list[int], count: int, **penalty: float) -> list[int]:
    """Greedy decoding with penalties as their papers and OpenAI's reference define them."""
    model = reference(folder)
    tokens = list(prompt)
    for _ in range(count):
        logits = reference_logits(model, tokens)[-1].clone()
        output = Counter(tokens[len(prompt) :])
        for token in set(tokens):
            factor = penalty.get("repetition_penalty", 1.0)
            logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        for token, times in output.items():
            logits[token] -= penalty.get("presence_penalty", 0.0)
            logits[token] -= penalty.get("frequency_penalty", 0.0) * times
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    "penalty",
    [
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.8},
        {"repetition_penalty": 1.6},
        {"presence_penalty": -0.5, "frequency_penalty": 1.0, "repetition_penalty": 1.2},
    ],
    ids=["presence", "frequency", "repetition", "all"],
)
def test_penalties_equal_their_definitions(
    penalty: dict[str, float], core: EngineCore, folder: Path
) -> None:
    got = answer(core, PROMPT, temperature=0.0, max_tokens=24, **penalty)
    assert got == _penalized(folder, PROMPT, 24, **penalty)


def test_penalties_survive_preemption(folder: Path) -> None:
    wanted = _penalized(folder, PROMPT, 40, presence_penalty=1.5)
    pressed = {"cache.num_blocks": 20, "model.max_len": 112, "batcher.headroom": 1}
    core = open_engine(folder, SETTINGS | pressed)
    for uid in range(8):
        submit(core, uid, PROMPT, temperature=0.0, max_tokens=40, presence_penalty=1.5)
    for events in drain(core).values():
        assert [t for e in events for t in e.token_ids] == wanted
    assert core.stats().num_preemptions > 0
    core.close()


def test_prompt_logprobs_survive_preemption(folder: Path) -> None:
    pressed = {"cache.num_blocks": 20, "model.max_len": 112, "batcher.headroom": 1}
    core = open_engine(folder, SETTINGS | pressed)
    prompt = mixed_prompts(1, 40, 97, seed=3)[0]
    for uid in range(6):
        submit(core, uid, prompt, temperature=0.0, max_tokens=50, prompt_logprobs=1)
    answers = [events for _, events in sorted(drain(core).items())]
    assert core.stats().num_preemptions > 0
    table = torch.log_softmax(reference_logits(reference(folder), prompt), dim=-1)
    wanted = [float(table[i, token]) for i, token in enumerate(prompt[1:])]
    for events in answers:
        (scores,) = [e.prompt_logprobs for e in events if e.prompt_logprobs is not None]
        assert [s.logprob for s in scores if s is not None] == pytest.approx(wanted, abs=1e-3)
    core.close()


def test_a_prompt_of_one_token_has_nothing_to_score(core: EngineCore) -> None:
    submit(core, 1, [5], temperature=0.0, prompt_logprobs=1)
    assert drain(core)[1, 0][0].prompt_logprobs == [None]


def test_min_tokens_forbids_the_end(core: EngineCore, folder: Path) -> None:
    greedy = answer(core, PROMPT, temperature=0.0)
    stop = greedy[2]
    short = answer(core, PROMPT, temperature=0.0, stop_token_ids=(stop,))
    assert short == greedy[: greedy.index(stop) + 1]
    longer = answer(core, PROMPT, temperature=0.0, stop_token_ids=(stop,), min_tokens=8)
    assert len(longer) >= 8
    assert stop not in longer[:8]


def test_logprobs_are_the_models(core: EngineCore, folder: Path) -> None:
    submit(core, 1, PROMPT, temperature=0.0, logprobs=3, presence_penalty=0.1)
    submit(core, 2, PROMPT, temperature=0.0)
    events = drain(core)
    tokens = [t for e in events[1, 0] for t in e.token_ids]
    table = torch.log_softmax(reference_logits(reference(folder), PROMPT + tokens), dim=-1)
    assert all(event.logprobs is None for event in events[2, 0])
    for i, event in enumerate(events[1, 0]):
        assert event.logprobs is not None
        (found,) = event.logprobs
        row = table[len(PROMPT) - 1 + i]
        assert found.token_id == tokens[i]
        assert found.logprob == pytest.approx(float(row[tokens[i]]), abs=1e-3)
        assert found.top_ids == row.topk(3).indices.tolist()
        assert found.top_logprobs == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)


def test_prompt_logprobs_cover_the_prompt_however_it_is_cut(folder: Path) -> None:
    prompt = mixed_prompts(1, 60, 97, seed=3)[0] + list(range(10, 60))
    core = open_engine(folder, SETTINGS | {"batcher.max_step_tokens": 16})
    answer(core, prompt, temperature=0.0)  # its prefix is cached now, and must not be skipped
    submit(core, 1, prompt, temperature=0.0, prompt_logprobs=2, n=2)
    events = drain(core)
    table = torch.log_softmax(reference_logits(reference(folder), prompt), dim=-1)
    scores = events[1, 0][0].prompt_logprobs
    assert scores is not None
    assert len(scores) == len(prompt)
    assert scores[0] is None
    for i, found in enumerate(scores[1:], 1):
        assert found is not None
        assert found.token_id == prompt[i]
        assert found.logprob == pytest.approx(float(table[i - 1, prompt[i]]), abs=1e-3)
        assert found.top_ids == table[i - 1].topk(2).indices.tolist()
    assert all(e.prompt_logprobs is None for e in events[1, 0][1:] + events[1, 1])
    core.close()
