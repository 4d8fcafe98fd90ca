"""Greedy answers of the engine held against transformers on the same checkpoint.

The reference is teacher-forced on our own tokens: if every one of them is the reference's argmax
after the same context, the answer is what its ``generate`` gives. Where the reference's two best
logits are closer than ``TIE``, either may come (two float32 sums in different order).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prelude.conf.load import load_config
from prelude.engine.build import build_engine
from prelude.engine.core import EngineCore
from prelude.types.request import Request, SamplingParams
from tests.model_samples import reference, reference_logits

TIE = 1e-3


@dataclass(frozen=True, slots=True)
class Parity:
    """How many tokens were compared, how many were ties, and the first difference, if any."""

    num_tokens: int
    num_ties: int
    first_difference: str | None


def mixed_prompts(count: int, longest: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Prompts of one to ``longest`` tokens; every third one starts with the same tokens."""
    rng = random.Random(seed)
    shared = [rng.randrange(3, vocab_size) for _ in range(longest // 2)]
    prompts = []
    for i in range(count):
        head = shared if i % 3 == 0 else []
        tail = rng.randint(1, longest - len(head))
        prompts.append(head + [rng.randrange(3, vocab_size) for _ in range(tail)])
    return prompts


def open_engine(folder: Path, overrides: Mapping[str, Any]) -> EngineCore:
    config = load_config({"model.path": str(folder), "runner.threads": 1, **overrides})
    core, _ = build_engine(config)
    return core


def greedy_answers(
    core: EngineCore, prompts: Sequence[Sequence[int]], num_tokens: int
) -> list[list[int]]:
    """All prompts at once, each continued by exactly ``num_tokens``."""
    params = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
    answers: list[list[int]] = [[] for _ in prompts]
    for uid, prompt in enumerate(prompts):
        assert core.add(Request(uid=uid, prompt_ids=list(prompt), params=params)) == []
    while core.has_work:
        for event in core.step():
            answers[event.uid] += event.token_ids
        core.ledger.check()
    assert core.ledger.pool.num_referenced == 0
    return answers


def compare(
    folder: Path, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> Parity:
    model = reference(folder)
    ties = total = 0
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        logits = reference_logits(model, [*prompt, *answer[:-1]])[len(prompt) - 1 :]
        best = logits.topk(2)
        for j, token in enumerate(answer):
            total += 1
            top, second = best.values[j].tolist()
            ties += top - second <= TIE
            if logits[j, token] < top - TIE:
                wanted = int(best.indices[j, 0])
                return Parity(total, ties, f"prompt {i}, token {j}: {token}, not {wanted}")
    return Parity(total, ties, None)


def check_parity(
    folder: Path, overrides: Mapping[str, Any], *, count: int, longest: int, num_tokens: int
) -> tuple[Parity, EngineCore]:
    core = open_engine(folder, overrides)
    prompts = mixed_prompts(count, longest, core.runner.vocab_size)
    torch.set_num_threads(1)
    answers = greedy_answers(core, prompts, num_tokens)
    core.close()
    return compare(folder, prompts, answers), core
