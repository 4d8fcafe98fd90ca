"""A runner without torch: for engine tests, the null engine of server benchmarks, simulation.

It keeps a real block table per slot and remembers which token each KV position was written with,
and its "model" reads the context back through that table. So a block that is lost, shared wrongly
or reused too early changes the output, as it would on a device. So does one that is copied to the
wrong place.
"""

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from prelude.runner.masks import nearest
from prelude.types.plan import (
    Embedding,
    Launch,
    Plan,
    ProgramCount,
    PromptLogprobs,
    Row,
    Sampled,
    SlotAdmit,
    StepOutput,
)
from prelude.types.prices import PriceTable, flat_prices

NextToken = Callable[[list[int]], int]


def next_token(context: list[int], vocab_size: int) -> int:
    """The fake model: a fixed mixing function of all tokens so far; never 0, the fake EOS."""
    state = len(context)
    for token in context:
        state = (state * 1_000_003 + token * 7919 + 12_345) & 0xFFFFFFFF
    return 1 + state % (vocab_size - 1)


def fake_embedding(context: list[int], vocab_size: int) -> bytes:
    """Four float32 numbers that depend on all tokens."""
    parts = ([token + i for token in context] for i in range(4))
    return array("f", [next_token(part, vocab_size) - vocab_size / 2 for part in parts]).tobytes()


@dataclass(slots=True)
class FakeRunner:
    """Runs plans on a price list, each as late as possible: when it is collected. ``sleep`` gets
    the milliseconds that a step costs: advance a fake clock, really sleep, or (default) do nothing.
    With a ``clock`` (seconds) steps pass on a device beside the host: only what is left of a step
    when it is collected is slept. ``model`` maps a context to a token. Copying a block to one of
    ``num_host_blocks``, or back, takes ``swap_ms``."""

    num_blocks: int = 256
    block_size: int = 16
    num_host_blocks: int = 0
    swap_ms: float = 0.0
    max_len: int = 1024
    vocab_size: int = 512
    prices: PriceTable = field(default_factory=flat_prices)
    sleep: Callable[[float], None] = lambda ms: None
    clock: Callable[[], float] | None = None
    depth: int = 1
    model: NextToken | None = None
    programs: ProgramCount = field(default_factory=ProgramCount)
    num_steps: int = 0
    _queue: deque[tuple[Plan, float]] = field(default_factory=deque)
    _free_s: float = 0.0
    _tables: dict[int, list[int]] = field(default_factory=dict)
    _admits: dict[int, SlotAdmit] = field(default_factory=dict)
    _last: dict[int, int] = field(default_factory=dict)
    _kv: dict[int, int] = field(default_factory=dict)
    _host: dict[int, int] = field(default_factory=dict)

    def submit(self, plan: Plan) -> None:
        assert len(self._queue) < self.depth, "more plans under way than the runner takes"
        self._queue.append((plan, self.clock() if self.clock else 0.0))

    def collect(self) -> StepOutput:
        plan, submitted_s = self._queue.popleft()
        self.num_steps += 1
        self._copy(plan)
        self._write_slots(plan)
        sampled: list[Sampled] = []
        scores: list[PromptLogprobs] = []
        embeddings: list[Embedding] = []
        for launch in plan.launches:
            sampled.extend(self._run(launch))
            scores.extend(filter(None, map(self._score, launch.rows)))
            embeddings.extend(filter(None, map(self._embed, launch.rows)))
        actual_ms = tuple(launch.price_ms for launch in plan.launches)
        copy_ms = self.swap_ms * plan.num_copies
        self._pass_time(sum(actual_ms) + copy_ms, submitted_s)
        return StepOutput(tuple(sampled), actual_ms, tuple(scores), copy_ms, tuple(embeddings))

    def _copy(self, plan: Plan) -> None:
        for copy in plan.copies_out:
            for block, host in zip(copy.device_ids, copy.host_ids, strict=True):
                self._move(self._kv, block, self._host, host)
        for copy in plan.copies_in:
            for block, host in zip(copy.device_ids, copy.host_ids, strict=True):
                self._move(self._host, host, self._kv, block)

    def _move(self, source: dict[int, int], first: int, target: dict[int, int], to: int) -> None:
        assert 0 <= (to if target is self._host else first) < self.num_host_blocks
        for i in range(self.block_size):
            token = source.get(first * self.block_size + i)
            target.pop(to * self.block_size + i, None)
            if token is not None:
                target[to * self.block_size + i] = token

    def _write_slots(self, plan: Plan) -> None:
        for admit in plan.admits:
            self._tables[admit.slot] = []
            self._admits[admit.slot] = admit
            self._last[admit.slot] = admit.token_ids[-1]
        for grant in plan.grants:
            table = self._tables[grant.slot]
            assert grant.first <= len(table), "a block table has a hole"
            table[grant.first :] = grant.block_ids

    def _pass_time(self, ms: float, submitted_s: float) -> None:
        if self.clock is None:
            self.sleep(ms)
            return
        self._free_s = max(self._free_s, submitted_s) + ms / 1e3
        if (left_s := self._free_s - self.clock()) > 0.0:
            self.sleep(left_s * 1e3)

    def upkeep(self) -> None:
        """Nothing is compiled here."""

    def close(self) -> None:
        self._tables.clear()
        self._kv.clear()
        self._host.clear()

    def _run(self, launch: Launch) -> list[Sampled]:
        for row in launch.rows:
            tokens = row.token_ids or (self._last[row.slot],)
            assert len(tokens) == row.num_tokens
            for i, token in enumerate(tokens):
                self._kv[self._position(row, row.start + i)] = token
        return [self._sample(row) for row in launch.rows if row.samples]

    def _context(self, row: Row) -> list[int]:
        end = row.start + row.num_tokens
        return [self._kv[self._position(row, i)] for i in range(end)]

    def _embed(self, row: Row) -> Embedding | None:
        admit = self._admits[row.slot]
        if not admit.embeds or row.start + row.num_tokens < admit.num_prompt:
            return None
        return Embedding(row.seq_id, fake_embedding(self._context(row), self.vocab_size))

    def _sample(self, row: Row) -> Sampled:
        context = self._context(row)
        token = self.model(context) if self.model else next_token(context, self.vocab_size)
        if (matcher := self._admits[row.slot].matcher) is not None:
            token = nearest(matcher, token, self.vocab_size)
            matcher.accept(token)
        self._last[row.slot] = token
        ends = matcher.ended if matcher else None
        return Sampled(row.seq_id, token, -1.0, (token,), (-1.0,), ends)

    def _score(self, row: Row) -> PromptLogprobs | None:
        """Of the fake model every prompt token's logprob is minus its position."""
        admit, first = self._admits[row.slot], row.start + 1
        targets = admit.token_ids[first : min(first + row.num_tokens, admit.num_prompt)]
        if not admit.scores_prompt or not targets:
            return None
        none: tuple[tuple[int, ...], ...] = ((),) * len(targets)
        logprobs = tuple(-float(first + i) for i in range(len(targets)))
        return PromptLogprobs(row.seq_id, first, targets, logprobs, none, ((),) * len(targets))

    def _position(self, row: Row, i: int) -> int:
        block, offset = divmod(i, self.block_size)
        return self._tables[row.slot][block] * self.block_size + offset
