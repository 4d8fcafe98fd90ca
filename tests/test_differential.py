"""The same requests in an engine with little memory and in one with plenty, with and without
overlap: token for token, stop for stop the same, whatever was chunked, cached, shared, evicted,
computed again or planned ahead."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from prelude.engine.core import EngineCore
from prelude.types.request import Request, SamplingParams, TokenEvent
from tests.engines import events_of
from tests.model_samples import save_checkpoint
from tests.parity import mixed_prompts, open_engine

ROOMY = {
    "graphs.capture": "eager",
    "cache.block_size": 8,
    "cache.num_blocks": 600,
    "model.max_len": 112,
    "runner.max_seqs": 32,
}
PRESSED = ROOMY | {
    "cache.num_blocks": 30,
    "runner.max_seqs": 6,
    "batcher.max_step_tokens": 20,
    "batcher.min_chunk": 3,
    "batcher.headroom": 1,
}


def some_params(rng: random.Random) -> dict[str, Any]:
    """Sampling of every kind; always seeded, so that there is one right answer."""
    return {
        "max_tokens": rng.randint(1, 40),
        "min_tokens": 0,
        "temperature": rng.choice([0.0, 0.7, 1.3]),
        "top_k": rng.choice([0, 5, 40]),
        "top_p": rng.choice([1.0, 0.8]),
        "min_p": rng.choice([0.0, 0.05]),
        "presence_penalty": rng.choice([0.0, 0.0, 0.9]),
        "frequency_penalty": rng.choice([0.0, 0.0, 0.4]),
        "repetition_penalty": rng.choice([1.0, 1.0, 1.2]),
        "logit_bias": rng.choice([{}, {}, {7: 3.0, 9: -50.0}]),
        "stop_token_ids": rng.choice([(), (11, 12)]),
        "ignore_eos": rng.random() < 0.5,
        "logprobs": rng.choice([None, None, 2]),
        "n": rng.choice([1, 1, 1, 3]),
        "seed": rng.randrange(2**40),
        "allowed_token_ids": rng.choice([(), (), tuple(range(3, 60))]),
    }


def answers(core: EngineCore, requests: list[Request]) -> dict[tuple[int, int], list[TokenEvent]]:
    found = events_of(core, requests)
    core.close()
    return found


def story(events: list[TokenEvent]) -> tuple[list[int], str | None, int | None]:
    tokens = [token for event in events for token in event.token_ids]
    return tokens, events[-1].finish_reason, events[-1].stop_reason


@pytest.mark.parametrize("overlap", ["never", "always"], ids=["plain", "overlap"])
@pytest.mark.parametrize("prefix", [True, False], ids=["prefix", "no-prefix"])
def test_memory_pressure_and_overlap_change_no_answer(
    prefix: bool, overlap: str, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, "qwen3")
    rng = random.Random(5)
    requests = [
        Request(uid=uid, prompt_ids=prompt, params=SamplingParams(**some_params(rng)))
        for uid, prompt in enumerate(mixed_prompts(30, 60, 97, seed=5))
    ]
    roomy = answers(open_engine(tmp_path, ROOMY), requests)
    options = {"cache.prefix": prefix, "runner.overlap": overlap}
    pressed_core = open_engine(tmp_path, PRESSED | options)
    torch.set_num_threads(1)
    pressed = answers(pressed_core, requests)
    assert pressed_core.stats().num_preemptions > 0
    assert pressed.keys() == roomy.keys()
    for key, events in roomy.items():
        assert story(pressed[key]) == story(events), key
