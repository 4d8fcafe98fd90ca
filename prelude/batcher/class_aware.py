"""Class-aware batching: a step is composed class by class under one time budget.

1. Every fast sequence that decodes has its token.
2. Deep ones take turns in a share of the step that nobody can take from them.
3. Prompts, short ones before documents, in the order in which they are due; one that is half
   computed can be overtaken like any other (``prelude.batcher.prompts``).
4. What time is left goes to the deep ones that have not had their turn, unless that would hold up
   the first token of a short prompt.

The budget is the tightest target of the classes that decode, stretched while fast prompts queue; or
the price of the fast tokens and of what deep ones and prompts are sure of, if that is more.
``prelude.batcher.room`` finds slots and blocks.
Sources: Sarathi-Serve (OSDI 2024), LPRS (arXiv:2606.09061), FastServe (NSDI 2026);
``docs/scheduling.md`` says why.
"""

from math import inf

from prelude.batcher.compose import Composer
from prelude.batcher.prompts import Prompts
from prelude.batcher.room import LANES, Room, rank
from prelude.batcher.view import PolicyState, ScheduleConfig, SequenceView, SystemView
from prelude.types.plan import Plan
from prelude.types.prices import PriceTable

_PROMPT_QUANTUM = 0.3  # of a step's target, that prompts have however many decode
_MAX_STRETCH = 3.0  # times the target
_MAX_STRETCH_BESIDE_LONG = 1.25  # where a long prompt fills all other steps up to the target
_EASY = 0.8  # of the budget: nobody misses a turn if classes change or contexts grow


def class_aware(
    view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
) -> tuple[Plan, PolicyState]:
    """See ``Policy``."""
    step, rules = Composer(view, prices, config, config.idle_step_ms, rank=rank), config.rules
    streams = {seq.service_class for seq in step.decoding}
    target_ms = min([rules.itl_ms[name] for name in streams], default=0.0)
    is_calm = step.decoding and not step.prefilling and next(iter(view.waiting), None) is None
    if is_calm and (streams == {"fast"} or _has_time(step, target_ms)):
        return _next_tokens(step, target_ms), PolicyState(rotor=state.rotor)
    prompts = Prompts(step, Room(step))
    share = rules.deep_share if "deep" in streams else 0.0
    step.decode([seq for seq in step.decoding if LANES[seq.service_class] == 0])
    plain_ms = _budget_ms(step, prompts, target_ms, share)
    step.budget_ms = max(plain_ms, _stretch_ms(step, prompts, target_ms, share))
    turns, served = _turns(step, state.rotor), 0
    if turns:
        served = max(step.decodes_within(turns, _deep_ms(step, prompts, target_ms)), 1)
        step.decode(turns[:served])
    owed_ms = prompts.fill(state.owed_ms, plain_ms, target_ms) if prompts else 0.0
    rest = [seq for seq in turns[served:] if seq.seq_id not in step.gone]
    extra = 0 if prompts.is_short else step.decodes_within(rest, step.budget_ms)
    step.decode(rest[:extra])
    is_easy = step.ms_with(0) <= _EASY * step.budget_ms
    step.is_settled = not prompts and extra == len(rest) and is_easy
    last = next((seq for seq in reversed(turns) if seq.seq_id in step.picks), None)
    return step.plan(), PolicyState(rotor=last.seq_id if last else state.rotor, owed_ms=owed_ms)


def _has_time(step: Composer, target_ms: float) -> bool:
    return step.decodes_within(step.decoding, target_ms) == len(step.decoding)


def _next_tokens(step: Composer, target_ms: float) -> Plan:
    """What it all comes to where nobody wants anything else and there is time for all: that is
    often, and quickly said."""
    step.decode()
    ms = step.ms_with(0)
    step.budget_ms = max(target_ms, ms) if step.config.rules.use.budget else inf
    step.is_settled = ms <= _EASY * step.budget_ms
    return step.plan()


def _budget_ms(step: Composer, prompts: Prompts, target_ms: float, share: float) -> float:
    """Fast tokens are picked already. What others are sure of comes on top of them, if the target
    has no room for it: ``share`` is the deep ones', if any decode."""
    rules = step.config.rules
    if not step.decoding:
        return rules.idle_ms
    if not rules.use.budget:
        return inf
    promised = share + (_PROMPT_QUANTUM if prompts else 0.0)
    return max(target_ms, step.ms_with(0) + promised * target_ms)


def _stretch_ms(step: Composer, prompts: Prompts, target_ms: float, share: float) -> float:
    """While newcomers queue, streams may wait for a token as long as these do, or as it takes to
    compute them all."""
    use = step.config.rules.use
    if not (prompts.has_short and step.decoding and use.budget and use.stretch):
        return 0.0
    newcomers = prompts.newcomers
    if not newcomers:
        return 0.0
    waited_ms = 1e3 * (step.view.now_s - newcomers[0].queued_s)
    all_ms = step.ms_with(0) + share * target_ms + sum([seq.cost_ms for seq in newcomers])
    most = _MAX_STRETCH_BESIDE_LONG if prompts.has_long else _MAX_STRETCH
    return min(max(waited_ms, all_ms), most * target_ms)


def _turns(step: Composer, rotor: int) -> list[SequenceView]:
    """Deep sequences that decode, the one after the last served first; then those of ``batch``."""
    picks, gone = step.picks, step.gone
    if len(picks) == len(step.decoding):
        return []
    here = [seq for seq in step.decoding if seq.seq_id not in picks and seq.seq_id not in gone]
    deep = [seq for seq in here if LANES[seq.service_class] == 2]
    batch = [seq for seq in here if LANES[seq.service_class] == 3]
    return _rotated(deep, rotor) + _rotated(batch, rotor)


def _rotated(seqs: list[SequenceView], rotor: int) -> list[SequenceView]:
    first = sum([seq.seq_id <= rotor for seq in seqs])
    return seqs[first:] + seqs[:first]


def _deep_ms(step: Composer, prompts: Prompts, target_ms: float) -> float:
    """How long the step may become with those deep tokens that come before prompts. Against
    documents it is the other way round: these have the deep ones' share. No step is stretched for
    deep ones."""
    budget_ms, deep_share = step.budget_ms, step.config.rules.deep_share
    if not prompts:
        return budget_ms
    if prompts.has_short:
        of_ms = target_ms if step.config.rules.use.budget else budget_ms
        granted_ms, kept_ms = deep_share * of_ms, _PROMPT_QUANTUM * target_ms
    else:
        granted_ms, kept_ms = (1.0 - deep_share) * budget_ms, deep_share * target_ms
    return min(step.ms_with(0) + granted_ms, budget_ms - kept_ms)
