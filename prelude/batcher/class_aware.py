"""Class-aware batching: a step is composed class by class under one time budget.

1. Every fast sequence that decodes has its token.
2. Deep ones take turns in a share of the step that nobody can take from them.
3. Prompts, short ones before documents, in the order in which they are due; one that is half
   computed can be overtaken like any other (``prelude.batcher.prompts``).
4. What time is left goes to the deep ones that have not had their turn, unless that would hold up
   the first token of a short prompt.

The budget is the tightest target of the classes that decode, stretched while fast prompts queue, as
far as longer steps have the better price; or the price of the fast tokens and of what deep ones and
prompts are sure of, if that is more. ``prelude.batcher.room`` finds slots and blocks.
Sources: Sarathi-Serve (OSDI 2024), LPRS (arXiv:2606.09061), FastServe (NSDI 2026);
``docs/scheduling.md`` says why.
"""

from itertools import chain
from math import inf

from prelude.batcher.compose import Composer
from prelude.batcher.prompts import Prompts
from prelude.batcher.room import LANES, Room, rank
from prelude.batcher.view import PolicyState, ScheduleConfig, SequenceView, SystemView
from prelude.types.plan import Plan
from prelude.types.prices import PriceTable

_PROMPT_QUANTUM = 0.3  # of a step's target, that prompts have however many decode
_MAX_STRETCH = 3.0  # times the target
_LEAST_REST = 0.1  # of a step, beside the deep ones' share
_EASY = 0.8  # of the budget: nobody misses a turn if classes change or contexts grow


def class_aware(
    view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
) -> tuple[Plan, PolicyState]:
    """See ``Policy``."""
    step = Composer(view, prices, config, config.idle_step_ms, rank=rank)
    prompts = Prompts(step, Room(step))
    step.decode([seq for seq in step.decoding if LANES[seq.service_class] == 0])
    plain_ms = _budget_ms(step, prompts)
    step.budget_ms = max(plain_ms, _stretch_ms(step, prompts))
    turns, served = _turns(step, state.rotor), 0
    if turns:
        served = max(step.decodes_within(turns, _deep_ms(step, prompts)), 1)
        step.decode(turns[:served])
    owed_ms = 0.0
    if prompts:
        target_ms = _target_ms(step) if step.decoding else 0.0
        owed_ms = prompts.fill(state.owed_ms, plain_ms, target_ms)
    rest = [seq for seq in turns[served:] if seq.seq_id not in step.gone]
    extra = 0 if prompts.is_short else step.decodes_within(rest, step.budget_ms)
    step.decode(rest[:extra])
    is_easy = step.ms_with(0) <= _EASY * step.budget_ms
    step.is_settled = not prompts and extra == len(rest) and is_easy
    last = next((seq for seq in reversed(turns) if seq.seq_id in step.picks), None)
    return step.plan(), PolicyState(rotor=last.seq_id if last else state.rotor, owed_ms=owed_ms)


def _budget_ms(step: Composer, prompts: Prompts) -> float:
    """Fast tokens are picked already. What others are sure of comes on top of them, if the target
    has no room for it."""
    rules = step.config.rules
    if not step.decoding:
        return rules.idle_ms
    if not rules.use.budget:
        return inf
    target_ms = _target_ms(step)
    promised = _deep_share(step)
    if prompts:
        promised += _PROMPT_QUANTUM
    return max(target_ms, step.ms_with(0) + promised * target_ms)


def _stretch_ms(step: Composer, prompts: Prompts) -> float:
    """While newcomers queue, streams may wait for a token as long as these do, or as it takes to
    compute them all; but no launch is made larger than the one that has the best price a token."""
    rules = step.config.rules
    if not (prompts.has_short and step.decoding and rules.use.budget and rules.use.stretch):
        return 0.0
    newcomers = prompts.newcomers
    if not newcomers:
        return 0.0
    waited_ms = 1e3 * (step.view.now_s - min([seq.queued_s for seq in newcomers]))
    cost_ms = sum([seq.cost_ms for seq in newcomers])
    all_ms = (step.ms_with(0) + cost_ms) / max(1.0 - _deep_share(step), _LEAST_REST)
    best_ms = step.ms_with(max(_best_launch(step) - step.num_tokens, 0))
    return min(max(waited_ms, all_ms), best_ms, _MAX_STRETCH * _target_ms(step))


def _best_launch(step: Composer) -> int:
    """Tokens of the launch that has the best price for each of them."""
    body, most = step.prices.body, step.config.max_step_tokens
    counts = [count for count in body.counts if count < most]
    return min([*counts, most], key=lambda count: body.at(count) / count)


def _deep_share(step: Composer) -> float:
    """The share of the deep ones, if any decode."""
    has_deep = any(seq.service_class == "deep" for seq in step.decoding)
    return step.config.rules.deep_share if has_deep else 0.0


def _target_ms(step: Composer) -> float:
    """The tightest of the classes that decode; there are some."""
    return min([step.config.rules.itl_ms[seq.service_class] for seq in step.decoding])


def _turns(step: Composer, rotor: int) -> list[SequenceView]:
    """Deep sequences that decode, the one after the last served first; then those of ``batch``."""
    if len(step.picks) == len(step.decoding):
        return []
    gone = step.gone
    here = [seq for seq in step.decoding if seq.seq_id not in gone] if gone else step.decoding
    deep = [seq for seq in here if LANES[seq.service_class] == 2]
    batch = [seq for seq in here if LANES[seq.service_class] == 3]
    return list(chain(_rotated(deep, rotor), _rotated(batch, rotor)))


def _rotated(seqs: list[SequenceView], rotor: int) -> list[SequenceView]:
    first = sum([seq.seq_id <= rotor for seq in seqs])
    return seqs[first:] + seqs[:first]


def _deep_ms(step: Composer, prompts: Prompts) -> float:
    """How long the step may become with those deep tokens that come before prompts. Against
    documents it is the other way round: these have the deep ones' share."""
    budget_ms, deep_share = step.budget_ms, step.config.rules.deep_share
    if not (step.decoding and prompts):
        return budget_ms
    has_short = prompts.has_short
    share, kept = (deep_share, _PROMPT_QUANTUM) if has_short else (1.0 - deep_share, deep_share)
    return min(step.ms_with(0) + share * budget_ms, budget_ms - kept * _target_ms(step))
