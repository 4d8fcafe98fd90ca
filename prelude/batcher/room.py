"""Slots and blocks for those who are to be admitted: who has to wait, and who has to make room.

From the cheapest: a free slot and free blocks (clean cached ones count as free); the slot of a deep
sequence, which is parked and keeps its blocks; the blocks of one, which is computed again later.
Nobody loses its blocks to a newcomer more often than once for each doubling of its output
(UniBoost, ICML 2026), nor before the newcomer has waited as long as it costs to have them again: so
work that is thrown away is never more than the time that newcomers have waited.
"""

from collections.abc import Iterable, Iterator
from itertools import takewhile
from math import log2

from prelude.batcher.compose import Composer
from prelude.batcher.forecast import peak_blocks
from prelude.batcher.view import PrefixHit, SequenceView
from prelude.types.service import ServiceClass

LANES: dict[ServiceClass, int] = {"fast": 0, "doc": 1, "deep": 2, "batch": 3}
_MAX_MISSES = 3


def rank(seq: SequenceView) -> tuple[int, int]:
    """Who may make room for whom: the last in this order goes first."""
    return LANES[seq.service_class], seq.seq_id


class Room:
    """Of one step. Candidates are taken one after the other, in their order: once an urgent one
    has found no room, others may not take what it waits for."""

    def __init__(self, step: Composer) -> None:
        self._step = step
        self._rules = step.config.rules
        self._misses = {False: 0, True: 0}  # of others, and of fast ones
        self._partials = len(step.prefilling)
        self._reserve = int(self._rules.reserve * step.view.num_usable_blocks)
        self._fast_blocks: int | None = None
        self._pending: int | None = None  # tokens of prompts half computed, and of the parked

    def has_slot(self, *, is_urgent: bool) -> bool:
        """True if there is a slot, or one that can be taken from a deep sequence."""
        return self._step.num_free_slots > 0 or (is_urgent and self._victim() is not None)

    def is_open(self, *, is_fast: bool) -> bool:
        """False if it is no use to ask for one more of a kind. Where nothing else can be done in
        the step, all may try."""
        return self._misses[is_fast] < _MAX_MISSES or not self._step.picks

    def while_open(
        self, line: Iterable[SequenceView], *, is_fast: bool = False
    ) -> Iterator[SequenceView]:
        """A line as far as it is any use to ask for more of its kind."""
        return takewhile(lambda _: self.is_open(is_fast=is_fast), line)

    @property
    def may_admit(self) -> bool:
        """False if nobody else can be admitted in this step."""
        is_open = self.is_open(is_fast=True) or self.is_open(is_fast=False)
        return is_open and self.has_slot(is_urgent=True)

    def find_blocks(self, seq: SequenceView, hit: PrefixHit, *, is_urgent: bool) -> bool:
        """True if there are blocks for ``seq`` now. Those that somebody else loses for a fast one
        are there from the next step on; what others wait for with urgency, nobody else may take."""
        step = self._step
        is_fast = LANES[seq.service_class] == 0
        if not step.preempted and (bool(seq.blocks) or self._fits(seq, hit, is_fast)):
            return True
        if is_fast and self._rules.use.evict and not (step.admitted or step.preempted):
            self._evict_for(seq, hit)
        self._missed(is_fast, is_urgent)
        return False

    def _missed(self, is_fast: bool, is_urgent: bool) -> None:
        self._misses[is_fast] += 1
        if is_urgent:
            self._misses[False] = _MAX_MISSES

    def take(self, seq: SequenceView, hit: PrefixHit, count: int, *, is_urgent: bool) -> bool:
        """True if ``seq`` can be admitted with ``count`` tokens after ``hit``; it has its slot
        then, and somebody else may be without."""
        step = self._step
        is_fast = LANES[seq.service_class] == 0
        end = hit.num_tokens + count
        stays_partial = end < seq.num_tokens
        if stays_partial and self._partials >= self._rules.max_partials and not is_urgent:
            self._missed(is_fast, is_urgent)
            return False
        missing = -(-end // step.view.block_size) - hit.num_blocks + hit.num_warm
        if missing > step.num_available or not self._find_slot(is_urgent):
            self._missed(is_fast, is_urgent)
            return False
        self._partials += stays_partial
        if is_fast and self._fast_blocks is not None:
            self._fast_blocks += step.wanted(seq, hit)
        return True

    def _find_slot(self, is_urgent: bool) -> bool:
        step = self._step
        if not step.num_free_slots and is_urgent and (victim := self._victim()) is not None:
            step.park(victim)
        return step.num_free_slots > 0

    def _victim(self) -> SequenceView | None:
        """The last in rank that has a slot; deep sequences keep their share of these."""
        step = self._step
        if not self._rules.use.park:
            return None
        residents = [*step.decoding, *step.prefilling]
        gone = step.gone
        deep = [seq for seq in residents if LANES[seq.service_class] and seq.seq_id not in gone]
        if len(deep) <= self._rules.deep_share * len(residents):
            return None
        return max(deep, key=rank)

    def _fits(self, seq: SequenceView, hit: PrefixHit, is_fast: bool) -> bool:
        """Fast ones need not mind what deep ones will want; others leave the reserve alone."""
        step = self._step
        if not step.holders and not step.picks:
            return True
        if not self._has_share(seq, hit):
            return False
        if is_fast:
            wanted = step.wanted(seq, hit)
            if wanted + self._most_promised() <= step.num_available:
                return True
            return wanted + self._promised_to_fast() <= step.num_available
        if not step.fits(seq, hit, self._reserve):
            return False
        if not self._rules.use.forecast:
            return True
        usable = step.view.num_usable_blocks - self._reserve
        peak = peak_blocks(
            [*step.holders, seq],
            step.view.block_size,
            limited=self._rules.use.contract,
            horizon=self._rules.quantum,
        )
        return peak <= usable

    def _has_share(self, seq: SequenceView, hit: PrefixHit) -> bool:
        step = self._step
        share = self._rules.classes[seq.service_class].kv_share
        if share >= 1.0:
            return True
        held = sum([len(s.blocks) for s in step.holders if s.service_class == seq.service_class])
        return held + step.wanted(seq, hit) <= share * step.view.num_usable_blocks

    def _most_promised(self) -> int:
        """Blocks that all residents and parked ones will want soon at most, quickly."""
        step = self._step
        size, headroom = step.view.block_size, step.config.headroom
        if self._pending is None:
            halves = [*step.prefilling, *step.view.parked]
            self._pending = sum([seq.num_pending for seq in halves])
        growing = len(step.holders) + len(step.admitted)
        return growing * (headroom // size + 2) + self._pending // size

    def _promised_to_fast(self) -> int:
        """Blocks that fast sequences will want soon, those admitted in this step included."""
        if self._fast_blocks is None:
            step = self._step
            fast = [seq for seq in step.holders if LANES[seq.service_class] == 0]
            self._fast_blocks = sum([max(step.wanted(s) - len(s.blocks), 0) for s in fast])
        return self._fast_blocks

    def _evict_for(self, seq: SequenceView, hit: PrefixHit) -> None:
        """All or nothing: the last in rank go until there is room; none if there never is, or if
        that costs more time than the newcomer has waited."""
        step = self._step
        missing = step.wanted(seq, hit) + self._promised_to_fast() - step.num_available
        victims = []
        for victim in reversed(step.holders):
            if missing <= 0 or LANES[victim.service_class] < LANES["deep"]:
                break
            if self._may_evict(victim):
                victims.append(victim)
                missing -= step.view.reclaimable(victim)
        waited_ms = 1e3 * (step.view.now_s - seq.queued_s)
        cost_ms = sum([step.copies.lost_ms(victim) for victim in victims])
        if missing <= 0 and (waited_ms >= cost_ms or not step.picks):
            for victim in victims:
                step.evict(victim)

    def _may_evict(self, victim: SequenceView) -> bool:
        doublings = log2(max(victim.num_output / self._rules.quantum, 1.0))
        return victim.num_preemptions <= doublings
