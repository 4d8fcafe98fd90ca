"""The prompts of a step: who has a chunk, in the order in which they are due.

Short ones are those of fast sequences, and of deep ones that are not dearer than a document; all
others are long. A step that has short ones carries beside them only what others are sure of, so
that it ends sooner; and it ends before the next short one, if those whose prompts are done with it
gain more by that than all who wait lose by one more step.
"""

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import chain, filterfalse, islice, tee
from operator import attrgetter

from prelude.batcher.compose import Composer
from prelude.batcher.room import Room
from prelude.batcher.view import SequenceView
from prelude.types.service import ServiceClass

_MAX_LOOK = 8  # deep prompts looked at to see of what kind they are
_MAX_SCAN = 64  # prompts looked at in a step, of a lane
_MOST_OVER = 1.2  # of the budget, for the least chunk: far into a long prompt a token is dear
_FEWEST = 8  # tokens that it is not made smaller than
_ONE_MORE = 12.0  # what a step costs besides its tokens, the host's part too, in one-token steps

_LONG: tuple[ServiceClass, ...] = ("doc", "deep", "batch")

_due = attrgetter("due_s", "seq_id")
_is_held = attrgetter("is_held")


class Prompts:
    """Of one step. ``has_short`` and ``has_long`` say who may have a chunk, ``is_short`` that a
    short one has it."""

    def __init__(self, step: Composer, room: Room) -> None:
        self._step = step
        self._room = room
        self._line = step.view.line
        self.is_short = False
        self._num_ending = 0  # short prompts that are done with this step
        resident = [self._is_short(seq) for seq in step.prefilling]
        has_slot = room.has_slot(is_urgent=False) or (
            any(self._is_late(seq) for seq in self._heads()) and room.has_slot(is_urgent=True)
        )
        deep = [self._is_short(seq) for seq in self._line("deep")[:_MAX_LOOK]] if has_slot else []
        has_fast = bool(self._line("fast")) and room.has_slot(is_urgent=True)
        has_docs = bool(self._line("doc") or self._line("batch")) and has_slot
        self.has_short = has_fast or any(resident) or any(deep)
        self.has_long = has_docs or not all(resident) or not all(deep)

    def __bool__(self) -> bool:
        return self.has_short or self.has_long

    @property
    def newcomers(self) -> list[SequenceView]:
        """Fast ones that wait."""
        return list(islice(_free(self._line("fast")), _MAX_SCAN))

    def fill(self, owed_ms: float, plain_ms: float, target_ms: float) -> float:
        """Give them their chunks. Long ones are owed their share of the time that prompts take.
        Once they are owed ``target_ms``, they keep it in each step, and have what short ones leave,
        as they do where no short one can have a chunk; but steps are not stretched for them beyond
        ``plain_ms``. The first to get a chunk gets ``min_chunk`` tokens (see ``_least``) whatever
        time is left, so that prompts always move. Returns what long ones are owed now."""
        step, at_least = self._step, self._step.config.min_chunk
        if not step.config.rules.use.interleave:  # what is half computed is not overtaken
            at_least = self._fill(step.prefilling, at_least)
        if not self.has_long:
            self._fill_short(at_least)
            return 0.0
        share, budget_ms, begun_ms = step.config.rules.prompt_share, step.budget_ms, step.ms_with(0)
        if not self.has_short:
            self._fill(self._long(), at_least)
            return max(owed_ms - (1.0 - share) * (step.ms_with(0) - begun_ms), 0.0)
        kept = share if owed_ms >= target_ms else 0.0
        at_least = self._fill_late(share, at_least)
        short_ms = step.ms_with(0)
        step.share(1.0 - kept)
        at_least = self._fill_short(at_least)
        long_ms = step.ms_with(0)
        if kept or not self.is_short:
            kept_ms = kept * (budget_ms - short_ms)
            step.budget_ms = min(max(plain_ms, long_ms + kept_ms), budget_ms)
            step.share(1.0)
            at_least = self._fill(self._long(), at_least)
            step.budget_ms = budget_ms
        end_ms = step.ms_with(0)
        step.share(1.0)
        self._fill_short(at_least)
        due_ms = share * (step.ms_with(0) - begun_ms)
        got_ms = short_ms - begun_ms + end_ms - long_ms
        return min(max(owed_ms + due_ms - got_ms, 0.0), target_ms)

    def _fill_late(self, share: float, at_least: int) -> int:
        """Those at the head of a line that have waited too long: before all others, or fast ones
        could take every slot that is free."""
        late = [seq for seq in self._heads() if self._is_late(seq)]
        if not late:
            return at_least
        self._step.share(share)
        return self._fill(late, at_least)

    def _fill_short(self, at_least: int) -> int:
        before = len(self._step.picks)
        at_least = self._fill(self._short(), at_least, is_short=True)
        self.is_short |= len(self._step.picks) > before
        return at_least

    def _is_short(self, seq: SequenceView) -> bool:
        """What a deep sequence has to compute before it goes on may be a document by now."""
        name = seq.service_class
        return name == "fast" or (name == "deep" and seq.cost_ms <= self._step.config.rules.doc_ms)

    def _short(self) -> Iterator[SequenceView]:
        room, is_short, line = self._room, self._is_short, self._line
        resident = sorted(filter(is_short, self._step.prefilling), key=_due)
        if not room.may_admit:
            return iter(resident)
        lines: list[Iterable[SequenceView]] = [resident] if resident else []
        if fast := line("fast"):
            lines.append(room.while_open(fast, is_fast=True))
        if deep := line("deep"):
            lines.append(filter(is_short, room.while_open(deep)))
        return self._fair(*lines)

    def _long(self) -> Iterator[SequenceView]:
        """``batch`` has what others leave, unless it has waited too long."""
        room, is_short, line = self._room, self._is_short, self._line
        resident = sorted(filterfalse(is_short, self._step.prefilling), key=_due)
        if not room.may_admit:
            return iter(resident)
        late = [seq for seq in islice(_free(line("batch")), 1) if self._is_late(seq)]
        doc, deep, batch = [room.while_open(line(name)) for name in _LONG]
        others = self._fair(resident, doc, filterfalse(is_short, deep))
        return chain(late, others, self._fair(batch))

    def _heads(self) -> Iterator[SequenceView]:
        return chain.from_iterable(islice(_free(self._line(name)), 1) for name in _LONG)

    def _is_late(self, seq: SequenceView) -> bool:
        max_wait_s = self._step.config.rules.classes[seq.service_class].max_wait_s
        return self._step.view.now_s - seq.queued_s > max_wait_s

    def _fair(self, *lines: Iterable[SequenceView]) -> Iterator[SequenceView]:
        """The first of all lines, merged; clients that are ahead of their share come last, however
        many of theirs come first. Nobody is looked at before it is its turn."""
        view = self._step.view
        if not (self._step.config.rules.use.fairness and view.is_contested):
            near = [islice(_free(line), _MAX_SCAN) for line in lines]
            return near[0] if len(near) == 1 else merge(*near, key=_due)
        twice = [tee(_free(line)) for line in lines]
        near = [islice(filterfalse(view.is_ahead, line), _MAX_SCAN) for line, _ in twice]
        ahead = [islice(filter(view.is_ahead, line), _MAX_SCAN) for _, line in twice]
        return chain(merge(*near, key=_due), merge(*ahead, key=_due))

    def _least(self, seq: SequenceView, start: int, at_least: int) -> int:
        """Tokens that the first prompt has whatever time is left: ``at_least``, or less where these
        alone would make the step much longer than its budget. Below some a chunk hardly gets
        cheaper, for all of them read the context once."""
        step, most_ms = self._step, _MOST_OVER * self._step.budget_ms
        token_ms = step.prices.scale * step.prices.ms_per_pair * start
        at_least = min(at_least, seq.num_tokens - start)
        while at_least >= 2 * _FEWEST and step.ms_with(at_least) + at_least * token_ms > most_ms:
            at_least //= 2
        return at_least

    def _ends_before(self, seq: SequenceView) -> bool:
        """True if the step had better end here: the mean time to the first token is least where
        cheap prompts do not wait for dear ones, but for the price of more steps."""
        step, num_ending = self._step, self._num_ending
        if not num_ending or not step.config.rules.use.split:
            return False
        num_waiting = len(self._line("fast")) + len(self._line("deep"))
        num_left = num_waiting + len(step.prefilling) - num_ending
        prices, token_ms = step.prices, max(seq.token_ms, 1e-9)
        one_more_ms = _ONE_MORE * prices.scale * prices.body.ms[0]
        worth_ms = one_more_ms * max(num_left, 1) / num_ending
        alone_ms = seq.num_pending * token_ms if seq.num_computed else seq.cost_ms
        if alone_ms <= worth_ms:
            return False
        longer_ms = step.ms_with(round(alone_ms / token_ms)) - step.ms_with(0)
        return min(longer_ms, step.budget_ms - step.ms_with(0)) > worth_ms

    def _fill(self, seqs: Iterable[SequenceView], at_least: int, *, is_short: bool = False) -> int:
        """Chunks for as many as there is time for; what the next one gets at least."""
        step, room = self._step, self._room
        residents = {seq.seq_id for seq in step.prefilling}
        may_admit, picks = room.may_admit, step.picks
        is_full: bool | None = None  # known when it is asked for
        for seq in seqs:
            if not (residents or may_admit):
                break
            if not at_least and (is_full := step.is_full if is_full is None else is_full):
                break
            seq_id, is_fast = seq.seq_id, seq.service_class == "fast"
            if seq_id in picks or seq_id in step.preempted or seq_id in step.parked:
                continue
            if is_short and self._ends_before(seq):
                break
            if seq_id in residents:
                residents.remove(seq_id)
                start = seq.num_computed
                count = step.chunk(seq, start, self._least(seq, start, at_least))
                count = step.add_resident(seq, count) if count else 0
            elif may_admit and room.is_open(is_fast=is_fast):
                is_urgent = is_fast or self._is_late(seq)
                count = self._admit(seq, at_least, is_urgent=is_urgent)
                may_admit = room.may_admit
            else:
                continue
            at_least = 0 if count else at_least
            self._num_ending += bool(is_short and count and picks[seq_id].is_last)
            if not count or picks[seq_id].mode is None:  # who got all it needs may leave some over
                is_full = None
        return at_least

    def _admit(self, seq: SequenceView, at_least: int, *, is_urgent: bool) -> int:
        step, room = self._step, self._room
        if not room.has_slot(is_urgent=is_urgent):
            return 0
        hit = step.view.match(seq)
        if not room.find_blocks(seq, hit, is_urgent=is_urgent):
            return 0
        start = hit.num_tokens
        count = step.chunk(seq, start, self._least(seq, start, at_least))
        if count and room.take(seq, hit, count, is_urgent=is_urgent):
            step.admit(seq, hit, count)
            return count
        return 0


def _free(line: Iterable[SequenceView]) -> Iterator[SequenceView]:
    """Who does not wait for another choice of the same request: that one may be behind it."""
    return filterfalse(_is_held, line)
