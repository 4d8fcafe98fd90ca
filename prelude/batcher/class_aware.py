"""Class-aware batching: a step is composed class by class under one time budget.

1. Every fast sequence that decodes has its token.
2. Deep ones take turns in a share of the step that nobody can take from them.
3. Prompts, cheapest first for what they have waited, fast classes before others; one that is half
   computed can be overtaken like any other.
4. What time is left goes to the deep ones that have not had their turn.

The budget is the tightest target of the classes that decode, or what their tokens and the smallest
chunk of a prompt cost, if that is more. Slots and blocks are found by ``prelude.batcher.room``.
Sources: Sarathi-Serve (OSDI 2024), LPRS (arXiv:2606.09061), FastServe (NSDI 2026), HRRN as in
SGLang; ``docs/scheduling.md`` says why.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop
from itertools import chain

from prelude.batcher.compose import Composer
from prelude.batcher.room import LANES, Room, rank
from prelude.batcher.view import PolicyState, ScheduleConfig, SequenceView, SystemView
from prelude.types.plan import Plan
from prelude.types.prices import PriceTable

_EXPIRED, _FAST, _OTHERS, _BATCH = range(4)
_LANE = {"fast": _FAST, "doc": _OTHERS, "deep": _OTHERS, "batch": _BATCH}
_MIN_COST_MS = 1e-3

# Lane, client ahead of its share, minus response ratio, cost, age: then who it is.
_Candidate = tuple[int, bool, float, float, int, SequenceView]


def class_aware(
    view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
) -> tuple[Plan, PolicyState]:
    """See ``Policy``."""
    step = Composer(view, prices, config, config.idle_step_ms, rank=rank)
    candidates = _candidates(step)
    has_prompts = bool(candidates)
    fast = [seq for seq in step.decoding if LANES[seq.service_class] == 0]
    step.decode(fast)
    step.budget_ms = _budget_ms(step, has_prompts=has_prompts)
    turns = _turns(step, state.rotor)
    served = _guaranteed(step, turns, candidates)
    step.share(1.0)
    _prefill(step, candidates)
    rest = [seq for seq in turns[served:] if seq.seq_id not in step.gone]
    extra = step.decodes_within(rest, step.budget_ms)
    step.decode(rest[:extra])
    step.is_settled = not has_prompts and extra == len(rest)
    last = next((seq for seq in reversed(turns) if seq.seq_id in step.picks), None)
    return step.plan(), PolicyState(rotor=last.seq_id if last else state.rotor)


def _budget_ms(step: Composer, *, has_prompts: bool) -> float:
    """Fast tokens are picked already: their price and a smallest chunk must fit."""
    config, rules = step.config, step.config.rules
    if not step.decoding:
        return rules.idle_ms
    if not rules.use.budget:
        return float("inf")
    target_ms = min([rules.itl_ms[name] for name in {s.service_class for s in step.decoding}])
    return max(target_ms, step.ms_with(config.min_chunk if has_prompts else 0))


def _turns(step: Composer, rotor: int) -> list[SequenceView]:
    """Deep sequences that decode, the one after the last served first; then those of ``batch``."""
    here = (
        [seq for seq in step.decoding if seq.seq_id not in step.gone]
        if step.gone
        else step.decoding
    )
    deep = [seq for seq in here if LANES[seq.service_class] == 2]
    batch = [seq for seq in here if LANES[seq.service_class] == 3]
    return list(chain(_rotated(deep, rotor), _rotated(batch, rotor)))


def _rotated(seqs: list[SequenceView], rotor: int) -> list[SequenceView]:
    first = sum([seq.seq_id <= rotor for seq in seqs])
    return seqs[first:] + seqs[:first]


def _guaranteed(
    step: Composer, turns: Sequence[SequenceView], candidates: Sequence[_Candidate]
) -> int:
    """Give the first of ``turns`` their tokens, within the share that is theirs, but one at least;
    how many."""
    share = step.config.rules.deep_share
    if not candidates:
        share = 1.0
    elif candidates[0][0] > _FAST:
        share = 1.0 - share
    num = max(step.decodes_within(turns, step.ms_with(0) + share * step.budget_ms), 1)
    step.decode(turns[:num])
    return num


def _candidates(step: Composer) -> list[_Candidate]:
    """A heap of all whose prompt is to be computed, residents and waiting ones."""
    interleave = step.config.rules.use.interleave
    waiting = [seq for seq in step.view.waiting if seq.leader is None or not seq.is_held]
    found = list(_ordered(step, chain(waiting, step.prefilling if interleave else ())))
    if not interleave:
        found += [(_EXPIRED, False, 0.0, 0.0, seq.seq_id, seq) for seq in step.prefilling]
    heapify(found)
    return found


def _ordered(step: Composer, seqs: Iterable[SequenceView]) -> Iterator[_Candidate]:
    """Highest response ratio next: time waited, in units of what it costs. Who has waited too
    long comes in the order of arrival, before all."""
    rules, now_s, is_ahead = step.config.rules, step.view.now_s, step.view.is_ahead
    is_fair = rules.use.fairness and step.view.is_contested
    for seq in seqs:
        name = seq.service_class
        config = rules.classes[name]
        wait_s = now_s - seq.queued_s
        if wait_s > config.max_wait_s:
            yield _EXPIRED, False, seq.queued_s, 0.0, seq.seq_id, seq
            continue
        cost_ms = max(seq.cost_ms, _MIN_COST_MS)
        ratio = config.aging * wait_s / cost_ms if rules.use.aging else 0.0
        yield _LANE[name], is_fair and is_ahead(seq), -ratio, cost_ms, seq.seq_id, seq


def _prefill(step: Composer, candidates: list[_Candidate]) -> None:
    """The first to get a chunk gets ``min_chunk`` tokens whatever time is left, so that prompts
    always move."""
    room = Room(step)
    residents = {seq.seq_id for seq in step.prefilling}
    at_least = step.config.min_chunk
    while candidates and (at_least or not step.is_full):
        lane, *_, seq_id, seq = heappop(candidates)
        if seq_id in residents:
            gone = seq_id in step.gone
            count = 0 if gone else step.chunk(seq, seq.num_computed, at_least)
            count = step.add_resident(seq, count) if count else 0
        else:
            count = _admit(step, room, seq, at_least, is_urgent=lane <= _FAST)
        if count:
            at_least = 0


def _admit(step: Composer, room: Room, seq: SequenceView, at_least: int, *, is_urgent: bool) -> int:
    if room.is_closed and not is_urgent and step.picks:
        return 0
    hit = step.view.match(seq)
    count = step.chunk(seq, hit.num_tokens, at_least)
    if count and room.make(seq, hit, count, is_urgent=is_urgent):
        step.admit(seq, hit, count)
        return count
    return 0
