"""Class-aware batching: a step is composed class by class under one time budget.

1. Every fast sequence that decodes has its token.
2. Deep ones take turns in a share of the step that nobody can take from them.
3. Prompts, short ones before documents, in the order in which they are due; one that is half
   computed can be overtaken like any other.
4. What time is left goes to the deep ones that have not had their turn.

The budget is the tightest target of the classes that decode, stretched while fast prompts queue; or
the price of the fast tokens and of what deep ones and prompts are sure of, if that is more.
``prelude.batcher.room`` finds slots and blocks.
Sources: Sarathi-Serve (OSDI 2024), LPRS (arXiv:2606.09061), FastServe (NSDI 2026);
``docs/scheduling.md`` says why.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from heapq import merge
from itertools import chain, filterfalse, islice, tee
from math import inf
from operator import attrgetter

from prelude.batcher.compose import Composer
from prelude.batcher.room import LANES, Room, rank
from prelude.batcher.view import PolicyState, ScheduleConfig, SequenceView, SystemView
from prelude.types.plan import Plan
from prelude.types.prices import PriceTable
from prelude.types.service import ServiceClass

_PROMPT_QUANTUM = 0.3  # of a step's target, that prompts have however many decode
_MAX_STRETCH = 3.0  # times the target
_EASY = 0.8  # of the budget: nobody misses a turn if classes change or contexts grow
_MAX_LOOK = 8  # deep prompts looked at to see of what kind they are
_MAX_SCAN = 64  # prompts looked at in a step, of a lane

_LONG: tuple[ServiceClass, ...] = ("doc", "deep", "batch")

_due = attrgetter("due_s", "seq_id")
_is_held = attrgetter("is_held")


def class_aware(
    view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
) -> tuple[Plan, PolicyState]:
    """See ``Policy``."""
    step = Composer(view, prices, config, config.idle_step_ms, rank=rank)
    room = Room(step)
    has_short, has_long = _has_prompts(step, room)
    has_prompts = has_short or has_long
    step.decode([seq for seq in step.decoding if LANES[seq.service_class] == 0])
    step.budget_ms = _budget_ms(step, has_short=has_short, has_long=has_long)
    turns = _turns(step, state.rotor)
    deep_ms = _deep_ms(step, has_short=has_short, has_long=has_long)
    served = max(step.decodes_within(turns, deep_ms), 1)
    step.decode(turns[:served])
    owed_ms = state.owed_ms if has_long else 0.0
    if has_prompts:
        owed_ms = _prefill(step, room, owed_ms, has_both=has_short and has_long)
    rest = [seq for seq in turns[served:] if seq.seq_id not in step.gone]
    extra = step.decodes_within(rest, step.budget_ms) if rest else 0
    step.decode(rest[:extra])
    is_easy = step.ms_with(0) <= _EASY * step.budget_ms
    step.is_settled = not has_prompts and extra == len(rest) and is_easy
    last = next((seq for seq in reversed(turns) if seq.seq_id in step.picks), None)
    return step.plan(), PolicyState(rotor=last.seq_id if last else state.rotor, owed_ms=owed_ms)


def _has_prompts(step: Composer, room: Room) -> tuple[bool, bool]:
    """Are there prompts that may have a chunk, short ones and long ones?"""
    line, is_short = step.view.line, partial(_is_short, step)
    resident = [is_short(seq) for seq in step.prefilling]
    has_slot = room.has_slot(is_urgent=any(_is_late(step, seq) for seq in _heads(step)))
    deep = [is_short(seq) for seq in line("deep")[:_MAX_LOOK]] if has_slot else []
    short = any(resident) or any(deep) or (bool(line("fast")) and room.has_slot(is_urgent=True))
    long = bool(line("doc") or line("batch")) and has_slot
    return short, long or not all(resident) or not all(deep)


def _budget_ms(step: Composer, *, has_short: bool, has_long: bool) -> float:
    """Fast tokens are picked already. What others are sure of comes on top of them, if the target
    has no room for it."""
    rules = step.config.rules
    if not step.decoding:
        return rules.idle_ms
    if not rules.use.budget:
        return inf
    target_ms = _target_ms(step)
    has_deep = any(seq.service_class == "deep" for seq in step.decoding)
    promised = rules.deep_share if has_deep else 0.0
    if has_short or has_long:
        promised += _PROMPT_QUANTUM
    budget_ms = max(target_ms, step.ms_with(0) + promised * target_ms)
    if has_short and rules.use.stretch:
        budget_ms = max(budget_ms, min(_queue_ms(step), _MAX_STRETCH * target_ms))
    return budget_ms


def _queue_ms(step: Composer) -> float:
    """Longer steps cost less of the host's time and compute prompts at a better price. While
    newcomers queue, streams may wait for a token as long as these do, or as it takes to compute
    them all."""
    line = list(islice(_free(step.view.line("fast")), _MAX_SCAN))
    if not line:
        return 0.0
    waited_ms = 1e3 * (step.view.now_s - min([seq.queued_s for seq in line]))
    return max(waited_ms, step.ms_with(0) + sum([seq.cost_ms for seq in line]))


def _target_ms(step: Composer) -> float:
    """The tightest of the classes that decode; there are some."""
    return min([step.config.rules.itl_ms[seq.service_class] for seq in step.decoding])


def _turns(step: Composer, rotor: int) -> list[SequenceView]:
    """Deep sequences that decode, the one after the last served first; then those of ``batch``."""
    gone = step.gone
    here = [seq for seq in step.decoding if seq.seq_id not in gone] if gone else step.decoding
    deep = [seq for seq in here if LANES[seq.service_class] == 2]
    batch = [seq for seq in here if LANES[seq.service_class] == 3]
    return list(chain(_rotated(deep, rotor), _rotated(batch, rotor)))


def _rotated(seqs: list[SequenceView], rotor: int) -> list[SequenceView]:
    first = sum([seq.seq_id <= rotor for seq in seqs])
    return seqs[first:] + seqs[:first]


def _deep_ms(step: Composer, *, has_short: bool, has_long: bool) -> float:
    """How long the step may become with those deep tokens that come before prompts. Against
    documents it is the other way round: these have the deep ones' share."""
    budget_ms, deep_share = step.budget_ms, step.config.rules.deep_share
    if not step.decoding or not (has_short or has_long):
        return budget_ms
    share, kept = (deep_share, _PROMPT_QUANTUM) if has_short else (1.0 - deep_share, deep_share)
    return min(step.ms_with(0) + share * budget_ms, budget_ms - kept * _target_ms(step))


def _prefill(step: Composer, room: Room, owed_ms: float, *, has_both: bool) -> float:
    """Short prompts first, then long ones, then short ones again. Long ones are owed their share of
    the time; once they are owed a whole target, they keep it in each step. Before all of them come
    those at the head of a line that have waited too long, or fast ones could take every slot that
    is free. The first to get a chunk gets ``min_chunk`` tokens whatever time is left, so that
    prompts always move. Returns what long ones are owed now."""
    rules, at_least = step.config.rules, step.config.min_chunk
    begun_ms, most_ms = step.ms_with(0), _target_ms(step) if step.decoding else 0.0
    kept = rules.prompt_share if has_both and owed_ms >= most_ms else 0.0
    if not rules.use.interleave:
        at_least = _fill(step, room, step.prefilling, at_least)
    late_ms = step.ms_with(0)
    if has_both and (late := [seq for seq in _heads(step) if _is_late(step, seq)]):
        step.share(rules.prompt_share)
        at_least = _fill(step, room, late, at_least)
    short_ms = step.ms_with(0)
    step.share(1.0 - kept)
    at_least = _fill(step, room, _short(step, room), at_least)
    long_ms = step.ms_with(0)
    step.share(1.0)
    at_least = _fill(step, room, _long(step, room), at_least)
    end_ms = step.ms_with(0)
    if has_both:
        _fill(step, room, _short(step, room), at_least)
    got_ms = short_ms - late_ms + end_ms - long_ms
    due_ms = rules.prompt_share * (step.ms_with(0) - begun_ms)
    return min(max(owed_ms + due_ms - got_ms, 0.0), most_ms)


def _is_short(step: Composer, seq: SequenceView) -> bool:
    """What a deep sequence has to compute before it goes on may be a document by now."""
    name = seq.service_class
    return name == "fast" or (name == "deep" and seq.cost_ms <= step.config.rules.doc_ms)


def _short(step: Composer, room: Room) -> Iterator[SequenceView]:
    is_short, line = partial(_is_short, step), step.view.line
    resident = sorted(filter(is_short, step.prefilling), key=_due)
    if not room.may_admit:
        return iter(resident)
    fast, deep = room.while_open(line("fast"), is_fast=True), room.while_open(line("deep"))
    return _fair(step, resident, fast, filter(is_short, deep))


def _long(step: Composer, room: Room) -> Iterator[SequenceView]:
    """``batch`` has what others leave, unless it has waited too long."""
    is_short, line = partial(_is_short, step), step.view.line
    resident = sorted(filterfalse(is_short, step.prefilling), key=_due)
    if not room.may_admit:
        return iter(resident)
    late = [seq for seq in islice(_free(line("batch")), 1) if _is_late(step, seq)]
    doc, deep, batch = [room.while_open(line(name)) for name in _LONG]
    others = _fair(step, resident, doc, filterfalse(is_short, deep))
    return chain(late, others, _fair(step, batch))


def _heads(step: Composer) -> Iterator[SequenceView]:
    return chain.from_iterable(islice(_free(step.view.line(name)), 1) for name in _LONG)


def _is_late(step: Composer, seq: SequenceView) -> bool:
    max_wait_s = step.config.rules.classes[seq.service_class].max_wait_s
    return step.view.now_s - seq.queued_s > max_wait_s


def _fair(step: Composer, *lines: Iterable[SequenceView]) -> Iterator[SequenceView]:
    """The first of all lines, merged; clients that are ahead of their share come last, however
    many of theirs come first. Nobody is looked at before it is its turn."""
    if not (step.config.rules.use.fairness and step.view.is_contested):
        return merge(*[islice(_free(line), _MAX_SCAN) for line in lines], key=_due)
    is_ahead = step.view.is_ahead
    twice = [tee(_free(line)) for line in lines]
    near = [islice(filterfalse(is_ahead, line), _MAX_SCAN) for line, _ in twice]
    ahead = [islice(filter(is_ahead, line), _MAX_SCAN) for _, line in twice]
    return chain(merge(*near, key=_due), merge(*ahead, key=_due))


def _free(line: Iterable[SequenceView]) -> Iterator[SequenceView]:
    """Who does not wait for another choice of the same request: that one may be behind it."""
    return filterfalse(_is_held, line)


def _fill(step: Composer, room: Room, seqs: Iterable[SequenceView], at_least: int) -> int:
    """Chunks for as many as there is time for; what the next one gets at least."""
    residents = {seq.seq_id for seq in step.prefilling}
    is_full, may_admit, picks = step.is_full, room.may_admit, step.picks
    for seq in seqs:
        if (is_full and not at_least) or not (residents or may_admit):
            break
        seq_id, is_fast = seq.seq_id, seq.service_class == "fast"
        if seq_id in picks or seq_id in step.preempted or seq_id in step.parked:
            continue
        if seq_id in residents:
            residents.remove(seq_id)
            count = step.chunk(seq, seq.num_computed, at_least)
            count = step.add_resident(seq, count) if count else 0
        elif may_admit and room.is_open(is_fast=is_fast):
            is_urgent = is_fast or _is_late(step, seq)
            count = _admit(step, room, seq, at_least, is_urgent=is_urgent)
            may_admit = room.may_admit
        else:
            continue
        at_least = 0 if count else at_least
        if not count or picks[seq_id].mode is None:  # who got all it needs may leave some over
            is_full = step.is_full
    return at_least


def _admit(step: Composer, room: Room, seq: SequenceView, at_least: int, *, is_urgent: bool) -> int:
    if not room.has_slot(is_urgent=is_urgent):
        return 0
    hit = step.view.match(seq)
    if not room.find_blocks(seq, hit, is_urgent=is_urgent):
        return 0
    count = step.chunk(seq, hit.num_tokens, at_least)
    if count and room.take(seq, hit, count, is_urgent=is_urgent):
        step.admit(seq, hit, count)
        return count
    return 0
