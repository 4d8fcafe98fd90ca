"""First come, first served, tuned: the honest baseline that other policies are measured against.

Decode rows of all residents first. Then new requests in order of arrival, while there is memory
and time; they may take half of what is left of the step if a resident has prompt left, so that a
short question is not held up by a long one before it. Then the residents' prefill chunks. A long
prompt is cut so that running streams never wait longer than the budget (or one ``min_chunk``, so
that prefill always moves).

A request that does not fit into memory may be overtaken by ``max_bypass`` others, then all wait; a
preempted one is never overtaken, for newcomers would take what it needs to come back.
"""

from prelude.batcher.compose import Composer
from prelude.batcher.view import PolicyState, ScheduleConfig, SystemView
from prelude.types.plan import Plan
from prelude.types.prices import PriceTable


def fcfs(
    view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
) -> tuple[Plan, PolicyState]:
    """See ``Policy``. Age is ``seq_id``: preempted sequences keep their place."""
    streaming = any(seq.is_decoding for seq in view.running)
    step = Composer(view, prices, config, config.step_ms if streaming else config.idle_step_ms)
    step.decode()
    partial = any(seq.seq_id not in step.preempted for seq in step.prefilling)
    step.share(0.5 if partial else 1.0)
    bypassed = _admit(step, dict(state.bypassed), at_least=0 if partial else config.min_chunk)
    step.share(1.0)
    _continue_prefill(step)
    return step.plan(), PolicyState(bypassed)


def _continue_prefill(step: Composer) -> None:
    prefilled = False
    for seq in step.prefilling:
        if seq.seq_id in step.preempted:
            continue
        at_least = 0 if prefilled else step.config.min_chunk
        count = step.chunk(seq, seq.num_computed, at_least)
        prefilled |= count > 0 and step.add_resident(seq, count) > 0


def _admit(step: Composer, bypassed: dict[int, int], at_least: int) -> dict[int, int]:
    """The first to be admitted gets ``at_least`` so many tokens. Returns how often each still
    waiting sequence has been overtaken for lack of memory."""
    blocked: list[int] = []
    if step.preempted:
        return bypassed
    for seq in step.view.waiting:
        if not step.num_free_slots or len(blocked) > step.config.max_bypass:
            break
        if seq.is_held:
            continue
        hit = step.view.match(seq)
        if not step.fits(seq, hit):
            if seq.num_preemptions or bypassed.get(seq.seq_id, 0) >= step.config.max_bypass:
                break
            blocked.append(seq.seq_id)
            continue
        count = step.chunk(seq, hit.num_tokens, at_least)
        if not count:
            break
        step.admit(seq, hit, count)
        at_least = 0
        bypassed.pop(seq.seq_id, None)
        for overtaken in blocked:
            bypassed[overtaken] = bypassed.get(overtaken, 0) + 1
    if bypassed:
        waiting = {seq.seq_id for seq in step.view.waiting}
        bypassed = {seq_id: times for seq_id, times in bypassed.items() if seq_id in waiting}
    return bypassed
