"""Composition of one step under its budgets: what has been picked, what it costs, what it needs.

Policies decide the order in which they offer sequences; the composer keeps the sums (tokens,
milliseconds, blocks, slots) and the one memory rule all policies share: an older sequence may
evict a younger one, never the other way round, so the oldest always finishes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from prelude.batcher.view import PrefixHit, ScheduleConfig, SequenceView, SystemView
from prelude.graphs.buckets import bucket_key
from prelude.types.plan import Launch, LaunchKind, Plan, Row
from prelude.types.prices import PriceTable, Sums
from prelude.types.request import SampleMode

_MODES: tuple[SampleMode, ...] = ("greedy", "filtered", "full")


@dataclass(slots=True)
class _Pick:
    seq: SequenceView
    start: int
    count: int


@dataclass(slots=True)
class Composer:
    """Collects rows for one plan. All methods are O(1) but for eviction, which scans residents."""

    view: SystemView
    prices: PriceTable
    config: ScheduleConfig
    budget_ms: float
    sums: Sums = field(default_factory=Sums)
    num_available: int = 0
    num_free_slots: int = 0
    picks: dict[int, _Pick] = field(default_factory=dict)
    admitted: list[int] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)
    residents: list[SequenceView] = field(default_factory=list)
    num_promised: int = 0  # blocks that residents will want soon, out of those available
    limit_ms: float = 0.0
    limit_tokens: int = 0

    def __post_init__(self) -> None:
        self.num_available = self.view.num_available_blocks
        self.num_free_slots = self.view.num_free_slots
        self.residents = sorted(self.view.running, key=lambda seq: seq.seq_id)
        self.num_promised = sum(self._wanted(s) - len(s.blocks) for s in self.residents)
        self.share(1.0)

    def share(self, fraction: float) -> None:
        """From now on chunks may use this fraction of what is left of both budgets."""
        spent_ms, tokens = self.price(self.sums), self.sums.tokens
        self.limit_ms = spent_ms + fraction * (self.budget_ms - spent_ms)
        self.limit_tokens = tokens + int(fraction * (self.config.max_step_tokens - tokens))

    def price(self, sums: Sums) -> float:
        return self.prices.step_ms(sums) if sums.rows else 0.0

    def chunk(self, start: int, pending: int, at_least: int = 0) -> int:
        """Most new tokens from ``start`` that both limits still allow, but ``at_least`` (or all
        that is pending) whatever they say."""
        limit = min(pending, max(self.limit_tokens - self.sums.tokens, at_least))
        low, high = min(at_least, limit), limit
        while low < high:
            middle = (low + high + 1) // 2
            if self.price(self.sums.plus(start, middle)) <= self.limit_ms:
                low = middle
            else:
                high = middle - 1
        return max(low, 0)

    def add_resident(self, seq: SequenceView, count: int) -> int:
        """Give a resident sequence ``count`` new tokens, evicting younger ones if blocks are
        short; fewer, down to 0, if there is nobody to evict. Returns the number given."""
        needed = self._new_blocks(seq, count)
        while needed > self.num_available and self._evict_younger_than(seq):
            pass
        if needed > self.num_available:
            size = self.view.block_size
            room = (len(seq.blocks) + self.num_available) * size - seq.num_computed
            count = min(count, room)
            needed = self._new_blocks(seq, count) if count > 0 else 0
        if count > 0:
            self._pick(seq, seq.num_computed, count, needed)
            self.num_promised -= needed
        return max(count, 0)

    def fits(self, seq: SequenceView, hit: PrefixHit) -> bool:
        """True if a waiting sequence has room beside what residents were promised: it will not be
        evicted again at once."""
        needed = self._wanted(seq) - hit.num_blocks + hit.num_warm
        return needed + max(self.num_promised, 0) <= self.num_available

    def admit(self, seq: SequenceView, hit: PrefixHit, count: int) -> None:
        """Make a waiting sequence resident with a first chunk of ``count`` tokens."""
        blocks = -(-(hit.num_tokens + count) // self.view.block_size) - hit.num_blocks
        self.num_free_slots -= 1
        self.admitted.append(seq.seq_id)
        self._pick(seq, hit.num_tokens, count, blocks + hit.num_warm)
        self.num_promised += self._wanted(seq) - hit.num_blocks - blocks

    def plan(self) -> Plan:
        launches = tuple(self._launches())
        return Plan(
            launches=launches,
            admit=tuple(self.admitted),
            preempt=tuple(self.preempted),
            price_ms=sum(launch.price_ms for launch in launches),
            budget_ms=self.budget_ms,
            holds_for=self._holds_for(),
        )

    def _pick(self, seq: SequenceView, start: int, count: int, blocks: int) -> None:
        self.picks[seq.seq_id] = _Pick(seq, start, count)
        self.sums = self.sums.plus(start, count)
        self.num_available -= blocks

    def _wanted(self, seq: SequenceView) -> int:
        """Blocks for all its tokens and for the headroom it may still grow by."""
        growth = min(max(seq.num_remaining, 1), self.config.headroom)
        return -(-(seq.num_tokens + growth) // self.view.block_size)

    def _new_blocks(self, seq: SequenceView, count: int) -> int:
        return -(-(seq.num_computed + count) // self.view.block_size) - len(seq.blocks)

    def _evict_younger_than(self, seq: SequenceView) -> bool:
        if not self.residents or self.residents[-1].seq_id <= seq.seq_id:
            return False
        victim = self.residents.pop()
        if pick := self.picks.pop(victim.seq_id, None):
            self.sums = self.sums.minus(pick.start, pick.count)
            self.num_available += self._new_blocks(victim, pick.count)
            self.num_promised += self._new_blocks(victim, pick.count)
        self.num_promised -= self._wanted(victim) - len(victim.blocks)
        self.num_available += self.view.reclaimable(victim)
        self.preempted.append(victim.seq_id)
        return True

    def _launches(self) -> Iterable[Launch]:
        picks = list(self.picks.values())
        if self.config.mix:
            groups = [picks]
        else:
            groups = [[p for p in picks if p.count == 1], [p for p in picks if p.count > 1]]
        for group in groups:
            if group:
                yield self._launch(group)

    def _launch(self, picks: list[_Pick]) -> Launch:
        sums = Sums()
        mode = 0
        rows = []
        for pick in picks:
            seq = pick.seq
            samples = pick.start + pick.count == seq.num_tokens
            if samples:
                mode = max(mode, _MODES.index(seq.request.params.sample_mode))
            sums = sums.plus(pick.start, pick.count)
            rows.append(Row(seq.seq_id, -1, pick.start, pick.count, samples=samples))
        kind: LaunchKind = "decode" if sums.tokens == sums.rows else "prefill"
        key = bucket_key(kind, sums.tokens, sums.rows, _MODES[mode])
        return Launch(key, tuple(rows), self.price(sums))

    def _holds_for(self) -> int:
        """Steps until a pure decode plan would change by itself: a row ends or needs a block."""
        if self.admitted or self.preempted or not self.picks:
            return 1
        size = self.view.block_size
        steps = [
            min(p.seq.num_remaining, len(p.seq.blocks) * size - p.seq.num_computed)
            for p in self.picks.values()
            if p.seq.is_decoding
        ]
        return max(min(steps), 1) if len(steps) == len(self.picks) else 1
