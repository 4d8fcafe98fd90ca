"""Engines for tests: the real core over the fake runner, and what it ought to answer."""

import itertools
from typing import Any

from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.engine.core import EngineCore
from prelude.engine.steplog import StepLog
from prelude.runner.fake import FakeRunner, next_token
from prelude.types.request import Request, SamplingParams, TokenEvent

VOCAB = 512
EOS = 0


class Clock:
    """Seconds that pass only when a step costs something."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep_ms(self, ms: float) -> None:
        self.now_s += ms / 1e3


def make_core(
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    max_len: int = 128,
    max_seqs: int = 8,
    prefix: bool = True,
    clock: Clock | None = None,
    runner: FakeRunner | None = None,
    log: StepLog | None = None,
    **batcher: Any,
) -> EngineCore:
    clock = clock or Clock()
    runner = runner or FakeRunner(
        num_blocks=num_blocks,
        block_size=block_size,
        max_len=max_len,
        vocab_size=VOCAB,
        sleep=clock.sleep_ms,
    )
    return EngineCore(
        runner,
        batcher=BatcherConfig(**({"max_step_tokens": 32, "min_chunk": 2, "headroom": 1} | batcher)),
        cache=CacheConfig(prefix=prefix),
        max_seqs=max_seqs,
        eos_ids=(EOS,),
        clock=clock,
        log=log,
        seed=0,
    )


_uids = itertools.count()


def request(
    prompt_ids: list[int], *, uid: int | None = None, salt: str = "", **params: Any
) -> Request:
    return Request(
        uid=next(_uids) if uid is None else uid,
        prompt_ids=prompt_ids,
        params=SamplingParams(**({"temperature": 0.0} | params)),
        cache_salt=salt,
    )


def expected(prompt_ids: list[int], count: int) -> list[int]:
    """What the fake model says to a prompt, computed without an engine."""
    context = list(prompt_ids)
    for _ in range(count):
        context.append(next_token(context, VOCAB))
    return context[len(prompt_ids) :]


def run(core: EngineCore, check: bool = True) -> list[TokenEvent]:
    """Step until idle. With ``check``, every block and slot is accounted for after each step."""
    events: list[TokenEvent] = []
    for _ in range(10_000):
        if not core.has_work:
            return events
        events += core.step()
        if check:
            core.ledger.check()
    raise AssertionError("the engine does not come to an end")


def tokens_of(events: list[TokenEvent]) -> dict[tuple[int, int], list[int]]:
    tokens: dict[tuple[int, int], list[int]] = {}
    for event in events:
        tokens.setdefault((event.uid, event.index), []).extend(event.token_ids)
    return tokens
