"""Engines for tests: the real core over the fake runner, and what it ought to answer."""

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from prelude.batcher.view import Policy
from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.engine.core import EngineCore
from prelude.engine.steplog import StepLog
from prelude.runner.fake import FakeRunner, NextToken, next_token
from prelude.runner.protocol import Runner
from prelude.types.plan import Plan, Row, StepOutput
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


@dataclass(slots=True)
class CarefulRunner(FakeRunner):
    """Fails where a plan touches what one still under way may need for somebody else."""

    _submitted_tables: dict[int, list[int]] = field(default_factory=dict)
    _under_way: deque[tuple[Plan, dict[int, set[int]]]] = field(default_factory=deque)
    _on_host: set[int] = field(default_factory=set)

    def submit(self, plan: Plan) -> None:
        self._check_copies(plan)
        for admit in plan.admits:
            assert not any(admit.slot == row.slot for row in self._rows_under_way())
            self._submitted_tables[admit.slot] = []
        for grant in plan.grants:
            self._submitted_tables[grant.slot][grant.first :] = grant.block_ids
        touched: dict[int, set[int]] = {}
        for row in (row for launch in plan.launches for row in launch.rows):
            end = row.start + row.num_tokens
            table = self._submitted_tables[row.slot][: -(-end // self.block_size)]
            written = set(table[row.start // self.block_size :])
            for _, others in self._under_way:
                held = [blocks for seq_id, blocks in others.items() if seq_id != row.seq_id]
                assert not written & set().union(*held), "a block is needed by a step under way"
            touched[row.seq_id] = set(table)
        self._under_way.append((plan, touched))
        FakeRunner.submit(self, plan)

    def collect(self) -> StepOutput:
        self._under_way.popleft()
        return FakeRunner.collect(self)

    def _check_copies(self, plan: Plan) -> None:
        assert not (plan.copies_out and self._under_way), "a step may still write what is copied"
        for copy in plan.copies_out:
            self._on_host.update(copy.host_ids)
        held = [blocks for _, others in self._under_way for blocks in others.values()]
        for copy in plan.copies_in:
            assert self._on_host.issuperset(copy.host_ids), "nothing was ever copied there"
            assert not set(copy.device_ids) & set().union(*held), "a step under way needs a block"
            self._on_host.difference_update(copy.host_ids)

    def _rows_under_way(self) -> list[Row]:
        plans = [plan for plan, _ in self._under_way]
        return [row for plan in plans for launch in plan.launches for row in launch.rows]


def make_core(
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    num_host_blocks: int = 0,
    swap_ms: float = 0.0,
    max_len: int = 128,
    max_seqs: int = 8,
    prefix: bool = True,
    clock: Clock | None = None,
    runner: Runner | None = None,
    log: StepLog | None = None,
    depth: int = 1,
    overlap: bool = True,
    model: NextToken | None = None,
    decide: Policy | None = None,
    **batcher: Any,
) -> EngineCore:
    clock = clock or Clock()
    runner = runner or CarefulRunner(
        num_blocks=num_blocks,
        block_size=block_size,
        num_host_blocks=num_host_blocks,
        swap_ms=swap_ms,
        max_len=max_len,
        vocab_size=VOCAB,
        sleep=clock.sleep_ms,
        clock=clock,
        depth=depth,
        model=model,
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
        overlap=overlap,
        policy=decide,
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


def expected(prompt_ids: list[int], count: int, model: NextToken | None = None) -> list[int]:
    """What the fake model says to a prompt, computed without an engine."""
    context = list(prompt_ids)
    for _ in range(count):
        context.append(model(context) if model else next_token(context, VOCAB))
    return context[len(prompt_ids) :]


def moody(context: list[int]) -> int:
    """A fake model that ends one answer in twelve tokens or so."""
    token = next_token(context, VOCAB)
    return EOS if token % 12 == 0 else token


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


def events_of(core: EngineCore, requests: list[Request]) -> dict[tuple[int, int], list[TokenEvent]]:
    """Of each choice, by uid and index, when all ``requests`` have been served together; every
    block is home then."""
    for request in requests:
        assert core.add(request) == []
    found: dict[tuple[int, int], list[TokenEvent]] = {}
    for event in run(core):
        found.setdefault((event.uid, event.index), []).append(event)
    assert core.ledger.pool.num_referenced == 0
    return found


def tokens_of(events: list[TokenEvent]) -> dict[tuple[int, int], list[int]]:
    tokens: dict[tuple[int, int], list[int]] = {}
    for event in events:
        tokens.setdefault((event.uid, event.index), []).extend(event.token_ids)
    return tokens
