"""First come, first served, tuned: the honest baseline that other policies are measured against.

Decode rows of all residents first; then prefill chunks of residents; then new admissions in order
of arrival, as far as the token and the millisecond budget go. A long prompt is cut so that running
streams never wait longer than the budget (or one ``min_chunk``, so that prefill always moves). A
request that does not fit into memory may be overtaken by ``max_bypass`` others, then all wait.
"""

from itertools import islice

from prelude.batcher.compose import Composer
from prelude.batcher.view import PolicyState, ScheduleConfig, SystemView
from prelude.types.plan import Plan
from prelude.types.prices import PriceTable

_MAX_SCANNED = 128


def fcfs(
    view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
) -> tuple[Plan, PolicyState]:
    """See ``Policy``. Age is ``seq_id``: preempted sequences keep their place."""
    streaming = any(seq.is_decoding for seq in view.running)
    step = Composer(view, prices, config, config.step_ms if streaming else config.idle_step_ms)
    _decode(step)
    _continue_prefill(step)
    bypassed = _admit(step, dict(state.bypassed))
    return step.plan(), PolicyState(bypassed)


def _decode(step: Composer) -> None:
    for seq in list(step.residents):
        if seq.is_decoding and seq.seq_id not in step.preempted:
            step.add_resident(seq, 1)


def _continue_prefill(step: Composer) -> None:
    prefilled = False
    for seq in list(step.residents):
        if seq.is_decoding or seq.seq_id in step.preempted:
            continue
        at_least = 0 if prefilled else step.config.min_chunk
        count = step.chunk(seq.num_computed, seq.num_pending, at_least)
        prefilled |= count > 0 and step.add_resident(seq, count) > 0


def _admit(step: Composer, bypassed: dict[int, int]) -> dict[int, int]:
    """Returns how often each still waiting sequence has been overtaken for lack of memory."""
    blocked: list[int] = []
    if step.preempted:
        return bypassed
    has_prefill = any(not pick.seq.is_decoding for pick in step.picks.values())
    for seq in islice(step.view.waiting, _MAX_SCANNED):
        if not step.num_free_slots:
            break
        if seq.is_held:
            continue
        hit = step.view.match(seq)
        if not step.fits(seq, hit):
            if bypassed.get(seq.seq_id, 0) >= step.config.max_bypass:
                break
            blocked.append(seq.seq_id)
            continue
        at_least = 0 if has_prefill else step.config.min_chunk
        count = step.chunk(hit.num_tokens, seq.num_tokens - hit.num_tokens, at_least)
        if not count:
            break
        step.admit(seq, hit, count)
        has_prefill = True
        bypassed.pop(seq.seq_id, None)
        for overtaken in blocked:
            bypassed[overtaken] = bypassed.get(overtaken, 0) + 1
    if bypassed:
        waiting = {seq.seq_id for seq in step.view.waiting}
        bypassed = {seq_id: times for seq_id, times in bypassed.items() if seq_id in waiting}
    return bypassed
