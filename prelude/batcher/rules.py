"""What the batcher's configuration comes to on this machine: thresholds that follow from prices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from prelude.conf.schema import BatcherConfig, ClassConfig, MechanismsConfig
from prelude.types.prices import PriceTable, Sums
from prelude.types.service import SERVICE_CLASSES, ServiceClass

_PROBATION_TOKENS = 192
_SURELY_DEEP = 4
_DOC_STEPS = 16.0
_FAIR_STEPS = 400.0
_IDLE_DECODES = 6  # that a step lasts while nobody decodes
_MIN_STEP_MS = 50.0
_DECODES_A_STEP = 3
_IDLE_FACTOR = 10


@dataclass(frozen=True, slots=True)
class Rules:
    """``BatcherConfig`` with all that follows from the prices. ``quantum`` is the probation in
    output tokens, ``deep_tokens`` what an answer must be known to have to go without; ``doc_ms``
    the price of a prompt from which it is a document, ``itl_ms`` the longest step that each class
    puts up with, ``idle_ms`` the longest step while nobody decodes: unless it is configured, just
    long enough for prompts to be computed well."""

    quantum: int = _PROBATION_TOKENS
    deep_tokens: int = _SURELY_DEEP * _PROBATION_TOKENS
    doc_ms: float = inf
    itl_ms: Mapping[ServiceClass, float] = field(default_factory=dict)
    idle_ms: float = inf
    classes: Mapping[ServiceClass, ClassConfig] = field(default_factory=dict)
    deep_share: float = 0.2
    prompt_share: float = 0.2
    reserve: float = 0.0
    max_partials: int = 4
    fair_ms: float = inf
    use: MechanismsConfig = field(default_factory=MechanismsConfig)


def budgets(batcher: BatcherConfig, prices: PriceTable) -> tuple[float, float]:
    """Milliseconds of a step while streams run and while none does. What is not configured follows
    from the hardware: a budget below the price of a decode step or two could never be met, and one
    far above it would be felt between two tokens."""
    step_ms = batcher.step_ms
    if step_ms is None:
        step_ms = max(_MIN_STEP_MS, _DECODES_A_STEP * prices.step_ms(Sums().plus(0, 1, "greedy")))
    return step_ms, batcher.idle_step_ms or _IDLE_FACTOR * step_ms


def rules_of(batcher: BatcherConfig, prices: PriceTable, step_ms: float) -> Rules:
    """See ``Rules``; ``step_ms`` is the budget of a step while streams run."""
    decode_ms = max(prices.step_ms(Sums().plus(0, 1, "greedy")), 1e-6)
    probation_ms = batcher.probation_ms or _PROBATION_TOKENS * decode_ms
    classes: dict[ServiceClass, ClassConfig] = {
        name: getattr(batcher.classes, name) for name in SERVICE_CLASSES
    }
    quantum = max(int(probation_ms / decode_ms), 1)
    return Rules(
        quantum=quantum,
        deep_tokens=_SURELY_DEEP * quantum,
        doc_ms=batcher.doc_ms or _DOC_STEPS * step_ms,
        itl_ms={name: config.itl_ms or step_ms for name, config in classes.items()},
        idle_ms=batcher.idle_step_ms
        or max(step_ms, _efficient_ms(prices, batcher.max_step_tokens)),
        classes=classes,
        deep_share=batcher.deep_share,
        prompt_share=batcher.prompt_share,
        reserve=batcher.reserve,
        max_partials=batcher.max_partials,
        fair_ms=batcher.fair_ms or _FAIR_STEPS * step_ms,
        use=batcher.use,
    )


def _efficient_ms(prices: PriceTable, max_tokens: int) -> float:
    """How long a step must be for prompts to be computed well: so long that reading the weights,
    which any step pays for, is a sixth of it at most. Less is lost, for much of the reading is
    done beside the arithmetic. It follows from what one token costs alone, the price that steps
    correct most often: the best price a token would be the one that noise has made the least."""
    return min(_IDLE_DECODES * prices.body.at(1), prices.body.at(max_tokens))


def unmet_targets(rules: Rules, prices: PriceTable) -> list[str]:
    """Targets that this machine cannot meet even for one sequence alone, a line each: between
    tokens a decode step takes its time, before the first one a prompt of one token does."""
    decode_ms = prices.step_ms(Sums().plus(0, 1, "greedy"))
    return [
        f"batcher.classes.{name}.{key}={target_ms:g}: cannot be met here, where a step of one token"
        f" takes {decode_ms:.3g} ms; use a smaller model, or set at least that"
        for name, config in rules.classes.items()
        for key in ("itl_ms", "ttft_ms")
        if (target_ms := getattr(config, key)) is not None and target_ms < decode_ms
    ]
