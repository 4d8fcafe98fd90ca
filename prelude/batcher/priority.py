"""Orders given from outside: what the class-aware policy is measured against.

``priority`` serves the smaller number first, as vLLM's scheduler of that name does: who is more
important takes slot and blocks from who is less, and what was lost is computed again.
``srpt_oracle`` serves what has least left to run; who has more gives up its slot and keeps its
blocks. It reads the answer's length from ``max_tokens``: an oracle where requests ignore their
end-of-sequence token, and only there.
"""

from collections.abc import Callable
from functools import partial

from prelude.batcher.compose import Composer
from prelude.batcher.view import PolicyState, PrefixHit, ScheduleConfig, SequenceView, SystemView
from prelude.types.plan import Plan
from prelude.types.prices import PriceTable

_Rank = Callable[[SequenceView], tuple[float, int]]


def priority(
    view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
) -> tuple[Plan, PolicyState]:
    """See ``Policy``."""
    step = _step(view, prices, config, _by_priority)
    return _serve(step, _evict_last), state


def srpt_oracle(
    view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
) -> tuple[Plan, PolicyState]:
    """See ``Policy``."""
    step = _step(view, prices, config, partial(_by_work_left, prices.body.at(1)))
    return _serve(step, _park_last), state


def _by_priority(seq: SequenceView) -> tuple[float, int]:
    return seq.request.hints.priority, seq.seq_id


def _by_work_left(decode_ms: float, seq: SequenceView) -> tuple[float, int]:
    """Device milliseconds alone."""
    return seq.token_ms * seq.num_pending + decode_ms * seq.num_remaining, seq.seq_id


def _step(view: SystemView, prices: PriceTable, config: ScheduleConfig, rank: _Rank) -> Composer:
    streaming = any(seq.is_decoding for seq in view.running)
    budget_ms = config.step_ms if streaming else config.idle_step_ms
    return Composer(view, prices, config, budget_ms, rank=rank)


def _serve(step: Composer, make_room: Callable[[Composer, SequenceView], None]) -> Plan:
    """Decodes, then prompts in the order of rank, residents and newcomers alike."""
    step.decode()
    at_least = step.config.min_chunk
    residents = {seq.seq_id for seq in step.prefilling}
    waiting = [seq for seq in step.view.waiting if not seq.is_held]
    for seq in sorted([*step.prefilling, *waiting], key=step.rank):
        if seq.seq_id in step.gone:
            continue
        if seq.seq_id in residents:
            count = step.chunk(seq, seq.num_computed, at_least)
            count = step.add_resident(seq, count) if count else 0
        else:
            hit = step.view.match(seq)
            count = step.chunk(seq, hit.num_tokens, at_least)
            if not count or not _has_room(step, seq, hit, make_room):
                break
            step.admit(seq, hit, count)
        at_least = 0 if count else at_least
    step.is_settled = not waiting
    return step.plan()


def _has_room(
    step: Composer,
    seq: SequenceView,
    hit: PrefixHit,
    make_room: Callable[[Composer, SequenceView], None],
) -> bool:
    """Blocks that somebody loses are there from the next step on."""
    if not step.preempted and not (step.num_free_slots and step.fits(seq, hit)):
        make_room(step, seq)
    return not step.preempted and step.num_free_slots > 0 and step.fits(seq, hit)


def _evict_last(step: Composer, seq: SequenceView) -> None:
    """Slot and blocks of the least important, if that is less important than ``seq``."""
    if step.holders and not step.admitted and step.rank(step.holders[-1])[0] > step.rank(seq)[0]:
        step.evict(step.holders[-1])


def _park_last(step: Composer, seq: SequenceView) -> None:
    """The slot of who has most left to run; its blocks stay its own."""
    here = [s for s in (*step.decoding, *step.prefilling) if s.seq_id not in step.gone]
    last = max(here, key=step.rank, default=None)
    if not step.num_free_slots and last is not None and step.rank(last) > step.rank(seq):
        step.park(last)
