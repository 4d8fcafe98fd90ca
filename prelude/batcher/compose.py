"""Composition of one step under its budgets: what has been picked, what it costs, what it needs.

Policies decide the order in which they offer sequences; the composer keeps the sums (tokens,
milliseconds, blocks, slots) and the one memory rule all policies share: whoever needs a block to go
on may evict who ranks below it, never the other way round, so the first in rank always finishes.

Where launches are static a step is priced as padded, so chunks grow into a bucket for nothing until
it is full, and ``settle`` decides about what is left over.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import attrgetter
from typing import Any

from prelude.batcher.pick import Lanes, Pick, moved, num_alike
from prelude.batcher.swap import Copies
from prelude.batcher.view import PrefixHit, ScheduleConfig, SequenceView, SystemView
from prelude.types.plan import BucketKey, Launch, LaunchKind, Plan, Row
from prelude.types.prices import PriceTable, Sums

_age = attrgetter("seq_id")


def _num_tokens(lanes: Lanes) -> int:
    return sum([sums.tokens for sums in lanes.values()])


@dataclass(slots=True)
class Composer:
    """Collects rows for one plan. All methods are O(1) but for eviction, which scans residents.

    ``rank`` orders who holds blocks, those that others may not evict first; ``holders`` are in
    that order. ``is_settled`` is for policies: False where the same decision would not be taken
    again though nothing has happened.
    """

    view: SystemView
    prices: PriceTable
    config: ScheduleConfig
    budget_ms: float
    rank: Callable[[SequenceView], Any] = _age
    is_settled: bool = True
    lanes: Lanes = field(default_factory=dict)
    num_available: int = 0
    num_free_slots: int = 0
    picks: dict[int, Pick] = field(default_factory=dict)
    admitted: list[int] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)
    parked: list[int] = field(default_factory=list)
    holders: list[SequenceView] = field(default_factory=list)
    decoding: list[SequenceView] = field(default_factory=list)
    prefilling: list[SequenceView] = field(default_factory=list)
    num_wanted: int | None = None  # blocks that residents will want soon; counted when asked
    num_granted: int = 0  # of those, given by this plan
    num_reserved: int = 0  # blocks that who is admitted now will want soon
    limits: tuple[float, int] | None = None  # milliseconds and tokens; known when asked for
    copies: Copies = field(init=False)
    _shared: tuple[float, Lanes] = field(init=False)
    _priced: tuple[Lanes | None, float] = (None, 0.0)  # what is picked, for it is asked again
    _tried: tuple[Lanes, tuple[int, int], Lanes, float | None] = ({}, (0, 0), {}, None)  # fits

    def __post_init__(self) -> None:
        self.copies = Copies(self.view, self.config)
        self.num_available = self.view.num_available_blocks
        self.num_free_slots = self.view.num_free_slots
        residents = sorted(self.view.running, key=self.rank)
        self.decoding = [seq for seq in residents if seq.is_decoding]
        if len(self.decoding) < len(residents):
            self.prefilling = [seq for seq in residents if not seq.is_decoding]
        parked = self.view.parked
        self.holders = sorted([*residents, *parked], key=self.rank) if parked else residents
        if not self.config.mix:
            self.lanes["decode"] = Sums()
        self.lanes["prefill"] = Sums()
        self.share(1.0)

    def share(self, fraction: float) -> None:
        """From now on chunks may use this fraction of what is left of both budgets."""
        self.limits = None
        self._shared = (fraction, self.lanes)

    def _limits(self) -> tuple[float, int]:
        if self.limits is None:
            fraction, lanes = self._shared
            spent_ms, tokens = self.price_ms(lanes), _num_tokens(lanes)
            self.limits = (
                spent_ms + fraction * (self.budget_ms - spent_ms),
                tokens + int(fraction * (self.config.max_step_tokens - tokens)),
            )
        return self.limits

    def price_ms(self, lanes: Lanes) -> float:
        """Price of a step of these launches, and of the copies there are so far."""
        priced, launches_ms = self._priced
        if priced is not lanes:
            launches_ms = sum([self._launch_ms(kind, sums) for kind, sums in lanes.items()])
            if lanes is self.lanes:
                self._priced = lanes, launches_ms
        return self.copies.ms + launches_ms

    def chunk(self, seq: SequenceView, start: int, at_least: int = 0) -> int:
        """Most new tokens of ``seq`` from ``start`` that both limits still allow, but ``at_least``
        (or all that is pending) whatever they say."""
        limit_ms, limit_tokens = self._limits()
        left = limit_tokens - self.num_tokens
        limit = min(seq.num_tokens - start, max(left, at_least))
        low, high = min(at_least, limit), limit
        middle = limit  # mostly all of it fits
        while low < high:
            lanes = self._with(Pick.of(seq, start, middle))
            ms = self.price_ms(lanes)
            if ms <= limit_ms:
                self._tried = self.lanes, (seq.seq_id, middle), lanes, ms - self.copies.ms
                low = middle
            else:
                high = middle - 1
            middle = (low + high + 1) // 2
        return max(low, 0)

    def decode(self, seqs: Sequence[SequenceView] | None = None) -> None:
        """Give residents that decode (default: all of them) their token; one by one, the first in
        order first, only where blocks are short."""
        seqs = self.decoding if seqs is None else seqs
        if not seqs:
            return
        size, picks = self.view.block_size, self.picks
        growing = sum([seq.num_computed == len(seq.blocks) * size for seq in seqs])
        if growing > self.num_available:
            for seq in seqs:
                if seq.seq_id not in self.preempted:
                    self.add_resident(seq, 1)
            return
        ctx = 0
        modes = []
        for seq in seqs:
            start, mode = seq.num_computed, seq.sample_mode
            picks[seq.seq_id] = Pick(seq, start, 1, mode)
            ctx += start + 1
            modes.append(mode)
        lane = self._lane(1)
        self.lanes = {**self.lanes, lane: self.lanes[lane].plus_decodes(ctx, modes)}
        self.num_available -= growing
        self.num_granted += growing

    def decodes_within(self, seqs: Sequence[SequenceView], limit_ms: float) -> int:
        """How many of these residents, from the first on, can have their token in a step of
        ``limit_ms``."""
        if not seqs:
            return 0
        lane = self._lane(1)
        sums = self.lanes[lane]
        modes = [seq.sample_mode for seq in seqs]
        ctx = list(accumulate([seq.num_computed + 1 for seq in seqs], initial=0))
        low, high = 0, len(seqs)
        while low < high:
            middle = (low + high + 1) // 2 if low or high < len(seqs) else high
            with_them = sums.plus_decodes(ctx[middle], modes[:middle])
            if self.price_ms({**self.lanes, lane: with_them}) <= limit_ms:
                low = middle
            else:
                high = middle - 1
        return low

    def add_resident(self, seq: SequenceView, count: int) -> int:
        """Give a resident sequence ``count`` new tokens, evicting those below it if blocks are
        short; fewer, down to 0, if there is nobody to evict. Returns the number given."""
        needed = self._new_blocks(seq, count)
        while needed > self.num_available and self._evict_below(seq):
            pass
        if needed > self.num_available:
            size = self.view.block_size
            room = (len(seq.blocks) + self.num_available) * size - seq.num_computed
            count = min(count, room)
            needed = self._new_blocks(seq, count) if count > 0 else 0
        if count > 0:
            self._pick(seq, seq.num_computed, count, needed)
            self.num_granted += needed
        return max(count, 0)

    def fits(self, seq: SequenceView, hit: PrefixHit, reserve: int = 0) -> bool:
        """True if a waiting sequence has room beside what residents were promised: it will not be
        evicted again at once. ``reserve`` blocks must be left."""
        return self.wanted(seq, hit) + self.promised + reserve <= self.num_available

    def wanted(self, seq: SequenceView, hit: PrefixHit | None = None) -> int:
        """Blocks for all its tokens and for the headroom it may still grow by; those it has yet
        to take, where ``hit`` says what it finds."""
        hit = hit or PrefixHit()
        return self._wanted(seq) - hit.num_blocks + hit.num_warm

    @property
    def gone(self) -> set[int]:
        """Who has lost its slot in this step."""
        return {*self.preempted, *self.parked}

    @property
    def num_tokens(self) -> int:
        """New tokens of the step so far."""
        return _num_tokens(self.lanes)

    @property
    def is_full(self) -> bool:
        """True if not one more token fits into the budgets."""
        limit_ms, limit_tokens = self._limits()
        return _num_tokens(self.lanes) >= limit_tokens or self.ms_with(1) > limit_ms

    def ms_with(self, count: int) -> float:
        """Price of the step with a chunk of ``count`` more tokens."""
        lanes = self.lanes
        if count:
            lanes = {**lanes, "prefill": lanes["prefill"].plus(0, count, "greedy")}
        return self.price_ms(lanes)

    @property
    def promised(self) -> int:
        """Blocks that who has some will want soon."""
        if self.num_wanted is None:
            size, headroom = self.view.block_size, self.config.headroom
            self.num_wanted = sum(  # ``_wanted``, written out: it is asked for all of them
                [
                    -(-(seq.num_tokens + min(max(seq.num_remaining, 1), headroom)) // size)
                    - len(seq.blocks)
                    for seq in self.holders
                ]
            )
        return max(self.num_wanted - self.num_granted + self.num_reserved, 0)

    def admit(self, seq: SequenceView, hit: PrefixHit, count: int) -> None:
        """Make a waiting sequence resident with a first chunk of ``count`` tokens."""
        blocks = -(-(hit.num_tokens + count) // self.view.block_size) - hit.num_blocks
        self.copies.bring(seq, hit)
        self.num_free_slots -= 1
        self.admitted.append(seq.seq_id)
        self._pick(seq, hit.num_tokens, count, blocks + hit.num_warm)
        self.num_reserved += self._wanted(seq) - hit.num_blocks - blocks

    def evict(self, victim: SequenceView) -> None:
        """Take slot and blocks from one of the holders; its KV goes to the host where that is the
        quicker way to have it again."""
        self.holders.remove(victim)
        self._withdraw(victim)
        self.num_wanted = None
        self.num_available += self.view.reclaimable(victim)
        if victim.seq_id in self.parked:
            self.parked.remove(victim.seq_id)
        elif not any(seq is victim for seq in self.view.parked):
            self.num_free_slots += 1
        self.preempted.append(victim.seq_id)
        self.copies.take(victim)

    def park(self, victim: SequenceView) -> None:
        """Take the slot, and only the slot, from a resident."""
        self._withdraw(victim)
        self.num_free_slots += 1
        self.parked.append(victim.seq_id)

    def plan(self) -> Plan:
        if self.holders and not (self.picks or self.gone):
            self.evict(self.holders[-1])  # nobody can go on beside it
        self._settle()
        launches = tuple(self._launches())
        out = self.copies.out
        return Plan(
            launches=launches,
            admit=tuple(self.admitted),
            preempt=tuple([seq_id for seq_id in self.preempted if seq_id not in out]),
            park=tuple(self.parked),
            swap_out=tuple(out),
            price_ms=self.copies.ms + sum([launch.price_ms for launch in launches]),
            budget_ms=self.budget_ms,
            holds_for=self._holds_for() if self.is_settled else 1,
        )

    def _pick(self, seq: SequenceView, start: int, count: int, blocks: int) -> None:
        pick = self.picks[seq.seq_id] = Pick.of(seq, start, count)
        before, tried, lanes, ms = self._tried
        if before is not self.lanes or tried != (seq.seq_id, count):
            lanes, ms = self._with(pick), None
        self.lanes, self._priced = lanes, (lanes, ms) if ms is not None else self._priced
        self.num_available -= blocks

    def _lane(self, count: int) -> LaunchKind:
        return "decode" if count == 1 and not self.config.mix else "prefill"

    def _with(self, pick: Pick) -> Lanes:
        return moved(self.lanes, self._lane(pick.count), pick)

    def _launch_ms(self, kind: LaunchKind, sums: Sums) -> float:
        if not sums.rows:
            return 0.0
        buckets = self.config.buckets
        if buckets.is_static:
            sums = sums.padded(buckets.key(kind, sums.tokens, sums.rows))
        return self.prices.step_ms(sums)

    def _settle(self) -> None:
        """A prefill launch that does not fill its bucket is cut down to the one below, if the cut
        fills up the next step anyway, or if it runs for less there than the padding here."""
        sums, buckets = self.lanes["prefill"], self.config.buckets
        down = buckets.below(sums.tokens, sums.rows)
        if not down or buckets.key("prefill", sums.tokens, sums.rows).num_tokens == sums.tokens:
            return
        cuts = self._cuts(sums.tokens - down)
        lanes, rest = self.lanes, Sums()
        for pick, kept in cuts:
            lanes = moved(lanes, "prefill", pick, -1)
            if kept:
                lanes = moved(lanes, "prefill", Pick.of(pick.seq, pick.start, kept))
            rest = rest.plus(pick.start + kept, pick.count - kept, pick.mode)
        rest_ms = self._launch_ms("decode" if rest.tokens == rest.rows else "prefill", rest)
        if self._has_more(cuts) or self.price_ms(lanes) + rest_ms < self.price_ms(self.lanes):
            self.lanes = lanes
            for pick, kept in cuts:
                self._keep(pick, kept)

    def _cuts(self, excess: int) -> list[tuple[Pick, int]]:
        """The last chunks, and what is left of each, so that ``excess`` tokens are cut off; none
        where one token would be left of a chunk."""
        cuts = []
        for pick in reversed(self.picks.values()):
            if excess and self._lane(pick.count) == "prefill":
                kept = max(pick.count - excess, 0)
                excess -= pick.count - kept
                cuts.append((pick, kept))
        return [] if any(kept == 1 for _, kept in cuts) else cuts

    def _keep(self, pick: Pick, kept: int) -> None:
        """Shorten a pick, or take it back."""
        seq_id = pick.seq.seq_id
        if kept:
            self.picks[seq_id] = Pick.of(pick.seq, pick.start, kept)
            return
        del self.picks[seq_id]
        if seq_id in self.admitted:
            self.admitted.remove(seq_id)
            self.copies.leave(seq_id)

    def _has_more(self, cuts: list[tuple[Pick, int]]) -> bool:
        """True if the next step has prompts to compute beside what may be cut off."""
        whole = {pick.seq.seq_id for pick, _ in cuts if pick.is_last}
        unfinished = any(
            not p.is_last and not p.seq.is_decoding
            for p in self.picks.values()
            if p.seq.seq_id not in whole
        )
        left_out = any(seq.seq_id not in self.picks for seq in self.prefilling)
        admissible = self.num_free_slots > 0 and any(
            seq.seq_id not in self.picks and not seq.is_held for seq in self.view.waiting
        )
        return unfinished or left_out or admissible

    def _wanted(self, seq: SequenceView) -> int:
        """Blocks for all its tokens and for the headroom it may still grow by."""
        growth = min(max(seq.num_remaining, 1), self.config.headroom)
        return -(-(seq.num_tokens + growth) // self.view.block_size)

    def _new_blocks(self, seq: SequenceView, count: int) -> int:
        return -(-(seq.num_computed + count) // self.view.block_size) - len(seq.blocks)

    def _evict_below(self, seq: SequenceView) -> bool:
        """The last in rank goes, if that is not ``seq`` itself. Nobody goes once somebody has been
        admitted, who may count on blocks it shares."""
        if self.admitted or not self.holders or self.rank(self.holders[-1]) <= self.rank(seq):
            return False
        self.evict(self.holders[-1])
        return True

    def _withdraw(self, victim: SequenceView) -> None:
        """It gets nothing in this step."""
        if pick := self.picks.pop(victim.seq_id, None):
            self.lanes = moved(self.lanes, self._lane(pick.count), pick, -1)
            self.num_available += self._new_blocks(victim, pick.count)
            self.num_granted -= self._new_blocks(victim, pick.count)

    def _launches(self) -> Iterator[Launch]:
        for lane, sums in self.lanes.items():
            if sums.rows:
                rows = tuple(
                    [
                        Row(p.seq.seq_id, -1, p.start, p.count, (), p.mode is not None)
                        for p in self.picks.values()
                        if self.config.mix or (p.count == 1) == (lane == "decode")
                    ]
                )
                yield Launch(self._key(sums), rows, self._launch_ms(lane, sums))

    def _key(self, sums: Sums) -> BucketKey:
        kind: LaunchKind = "decode" if sums.tokens == sums.rows else "prefill"
        return self.config.buckets.key(kind, sums.tokens, sums.rows, sums.mode)

    def _holds_for(self) -> int:
        """Steps until a pure decode plan would change by itself: a row ends, blocks are short."""
        if self.admitted or self.preempted or self.parked or not self.picks:
            return 1
        if any(seq.seq_id in self.picks for seq in self.prefilling):
            return 1
        return num_alike([p.seq for p in self.picks.values()], self.view, self.num_available)
