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

_FAST, _OTHERS, _BATCH = range(3)
_LANE = {"fast": _FAST, "doc": _OTHERS, "deep": _OTHERS, "batch": _BATCH}

# Lane, place (0 for who comes first whatever it costs), client ahead of its share, time, age: then
# who it is.
_Candidate = tuple[int, int, bool, float, int, SequenceView]


def class_aware(
    view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
) -> tuple[Plan, PolicyState]:
    """See ``Policy``."""
    step = Composer(view, prices, config, config.idle_step_ms, rank=rank)
    prompts = _prompts(step)
    fast = [seq for seq in step.decoding if LANES[seq.service_class] == 0]
    step.decode(fast)
    step.budget_ms = _budget_ms(step, has_prompts=any(prompts))
    turns = _turns(step, state.rotor)
    served = _guaranteed(step, turns, prompts)
    _prefill(step, prompts)
    rest = [seq for seq in turns[served:] if seq.seq_id not in step.gone]
    extra = step.decodes_within(rest, step.budget_ms)
    step.decode(rest[:extra])
    step.is_settled = not any(prompts) and extra == len(rest)
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
    step: Composer, turns: Sequence[SequenceView], prompts: tuple[list[_Candidate], ...]
) -> int:
    """Give the first of ``turns`` their tokens, within the share that is theirs, but one at least;
    how many. Against documents it is the other way round: they have that share."""
    share = step.config.rules.deep_share
    if not any(prompts):
        share = 1.0
    elif not prompts[_FAST]:
        share = 1.0 - share
    num = max(step.decodes_within(turns, step.ms_with(0) + share * step.budget_ms), 1)
    step.decode(turns[:num])
    return num


def _prompts(step: Composer) -> tuple[list[_Candidate], list[_Candidate]]:
    """Two heaps of all whose prompt is to be computed, residents and waiting ones: fast ones, and
    the others."""
    interleave = step.config.rules.use.interleave
    lanes: tuple[list[_Candidate], list[_Candidate]] = ([], [])
    waiting = [seq for seq in step.view.waiting if seq.leader is None or not seq.is_held]
    for candidate in _ordered(step, chain(waiting, step.prefilling if interleave else ())):
        lanes[candidate[0] > _FAST].append(candidate)
    if not interleave:
        lanes[0].extend([(_FAST, 0, False, 0.0, s.seq_id, s) for s in step.prefilling])
    for lane in lanes:
        heapify(lane)
    return lanes


def _ordered(step: Composer, seqs: Iterable[SequenceView]) -> Iterator[_Candidate]:
    """In the order of arrival, but for what they cost: whoever comes less than ``patience`` times
    that later, and is cheaper by as much, comes before."""
    rules, now_s, is_ahead = step.config.rules, step.view.now_s, step.view.is_ahead
    is_fair = rules.use.fairness and step.view.is_contested
    for seq in seqs:
        name = seq.service_class
        config = rules.classes[name]
        queued_s = seq.queued_s
        if now_s - queued_s > config.max_wait_s:
            yield min(_LANE[name], _OTHERS), 0, False, queued_s, seq.seq_id, seq
            continue
        due_s = queued_s + (config.patience * 1e-3 * seq.cost_ms if rules.use.cost_order else 0.0)
        yield _LANE[name], 1, is_fair and is_ahead(seq), due_s, seq.seq_id, seq


def _prefill(step: Composer, prompts: tuple[list[_Candidate], list[_Candidate]]) -> None:
    """Fast prompts first, as far as the others keep their share; then these, then fast ones
    again. The first to get a chunk gets ``min_chunk`` tokens whatever time is left, so that
    prompts always move."""
    fast, others = prompts
    room = Room(step)
    step.share(1.0 - step.config.rules.prompt_share if fast and others else 1.0)
    at_least = _fill(step, room, list(fast), step.config.min_chunk)
    step.share(1.0)
    at_least = _fill(step, room, list(others), at_least)
    if fast and others:
        _fill(step, room, fast, at_least)


def _fill(step: Composer, room: Room, candidates: list[_Candidate], at_least: int) -> int:
    residents = {seq.seq_id for seq in step.prefilling}
    while candidates and (at_least or not step.is_full):
        lane, place, *_, seq_id, seq = heappop(candidates)
        if seq_id in step.picks or seq_id in step.gone:
            continue
        if seq_id in residents:
            count = step.chunk(seq, seq.num_computed, at_least)
            count = step.add_resident(seq, count) if count else 0
        else:
            count = _admit(step, room, seq, at_least, is_urgent=not (lane and place))
        if count:
            at_least = 0
    return at_least


def _admit(step: Composer, room: Room, seq: SequenceView, at_least: int, *, is_urgent: bool) -> int:
    if room.is_closed and not is_urgent and step.picks:
        return 0
    hit = step.view.match(seq)
    count = step.chunk(seq, hit.num_tokens, at_least)
    if count and room.make(seq, hit, count, is_urgent=is_urgent):
        step.admit(seq, hit, count)
        return count
    return 0
