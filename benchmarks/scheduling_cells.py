"""What is compared: regimes of traffic, and the policies with one mechanism left out at a time.

Lengths are an eighth of the mixes' (``conf/simulate/mix``), so that they fit into the bundled
model's context, and thresholds are scaled likewise: a step of ``STEP_MS`` is to its decode step and
its documents what 50 ms are to an 8B model's on an H200.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prelude.conf.command import SIMULATE
from prelude.conf.load import load
from prelude.conf.simulate import Labels, SimArrival, SimulateConfig
from prelude.types.prices import PriceTable, Sums

SCALE = 0.125
STEP_MS = 20.0
PROBATION_TOKENS = 24
DOC_STEPS = 4
FAST, LONG = "chat", "doc"

LENGTHS = (
    f"traffic.length_scale={SCALE}",
    "traffic.classes.deep.prompt.high=3000",
    "traffic.classes.deep.output.high=13000",
    "traffic.classes.doc.prompt.high=15200",
)


@dataclass(frozen=True, slots=True)
class Regime:
    """``traffic`` are overrides of a mix; ``max_seqs`` and ``num_blocks`` bound the engine.
    ``long_prompt`` is that of one more request, which comes when the streams run;
    ``required`` and ``aim`` are for the ratio of fast TTFT p99 to that of ``tuned``."""

    title: str
    traffic: tuple[str, ...]
    loads: tuple[float, ...]
    num_requests: int
    max_seqs: int = 64
    num_blocks: int = 8193
    long_prompt: int = 0
    arrival: SimArrival = SimArrival.poisson
    saturated_as: str | None = None  # whose saturation its loads are shares of, if not its own
    is_real: bool = False  # prompts and ends of sequence are the bundled model's own


REGIMES: dict[str, Regime] = {
    "mixed": Regime("chat, reasoning and documents", ("mix=m1", *LENGTHS), (0.95, 0.85, 1.1), 540),
    "slots": Regime("the same with 8 slots", ("mix=m1", *LENGTHS), (0.95, 1.1), 540, max_seqs=8),
    "kv": Regime(
        "the same with 3,000 tokens of KV",
        ("mix=m1", *LENGTHS),
        (0.95, 1.1),
        540,
        num_blocks=188,
    ),
    "short": Regime("short chat alone", ("mix=m4", LENGTHS[0]), (0.7, 0.95, 0.3), 1000),
    "long": Regime(
        "a prompt of 32k tokens is computed while chat streams",
        ("mix=m4", LENGTHS[0]),
        (0.3,),
        600,
        num_blocks=8193,
        long_prompt=32_000,
    ),
    "answers": Regime(
        "real prompts to real ends of sequence, 8 slots",
        (),
        (0.95,),
        1200,
        max_seqs=8,
        is_real=True,
    ),
    "bursts": Regime(
        "chat, reasoning and documents in bursts (gamma gaps, CV 3)",
        ("mix=m1", *LENGTHS),
        (0.85,),
        540,
        arrival=SimArrival.gamma,
        saturated_as="mixed",
    ),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A policy as it is run: overrides of ``batcher``, and what requests say of themselves."""

    title: str
    overrides: tuple[str, ...]
    labels: Labels = Labels.honest


_HUGE = ("batcher.step_ms=1000000", "batcher.idle_step_ms=1000000")
_BUDGET = (f"batcher.step_ms={STEP_MS}",)
_CLASS_AWARE = ("batcher=class_aware", *_BUDGET, f"batcher.doc_ms={DOC_STEPS * STEP_MS}")
_HIDDEN = "batcher.use.contract=false"  # outputs end at max_tokens: a policy must not see it

CHUNKS = (128, 512, 2048)
TUNABLE: dict[str, Variant] = {
    f"{name} {chunk}": Variant(
        f"fcfs, {title}, chunks of {chunk}",
        ("batcher=fcfs", *budget, f"batcher.max_step_tokens={chunk}"),
    )
    for name, title, budget in (
        ("open", "no step budget", _HUGE),
        ("budget", f"steps of {STEP_MS:g} ms", _BUDGET),
    )
    for chunk in CHUNKS
}
PLAIN = "open 2048"
TUNED = "tuned"

MECHANISMS = (
    "prediction",
    "probation",
    "budget",
    "stretch",
    "split",
    "interleave",
    "park",
    "evict",
    "forecast",
    "fairness",
    "cost_order",
)
OURS = "class_aware"
VARIANTS: dict[str, Variant] = {
    "plain": TUNABLE[PLAIN],
    "priority": Variant("priority, true labels", ("batcher=priority", *_BUDGET)),
    OURS: Variant("class_aware", (*_CLASS_AWARE, _HIDDEN)),
    "lies": Variant("every label lies", (*_CLASS_AWARE, _HIDDEN), Labels.lies),
    "blind": Variant(
        "no labels, no prediction",
        (*_CLASS_AWARE, _HIDDEN, "batcher.use.prediction=false"),
        Labels.none,
    ),
    "priority lies": Variant(
        "priority, every label lies", ("batcher=priority", *_BUDGET), Labels.lies
    ),
    "contract": Variant("max_tokens is known", _CLASS_AWARE),
    **{
        f"no {name}": Variant(
            f"without {name}", (*_CLASS_AWARE, _HIDDEN, f"batcher.use.{name}=false")
        )
        for name in MECHANISMS
    },
    "srpt": Variant(
        "srpt_oracle: knows every length", ("batcher=srpt_oracle", *_BUDGET), Labels.honest
    ),
}
MAIN = ("plain", TUNED, "priority", OURS)
ABLATIONS = tuple(name for name in VARIANTS if name not in MAIN)


def probation(prices: PriceTable) -> str:
    """``PROBATION_TOKENS`` decode steps, at what one costs here."""
    ms = PROBATION_TOKENS * prices.step_ms(Sums().plus(0, 1, "greedy"))
    return f"batcher.probation_ms={ms:.4f}"


def simulation(
    regime: Regime,
    variant: Variant,
    *,
    rate: float,
    seed: int,
    extra: Sequence[str] = (),
) -> SimulateConfig:
    """The traffic and the batcher of a cell, as ``prelude simulate`` takes them."""
    return load(
        SIMULATE,
        SimulateConfig,
        [
            *regime.traffic,
            f"traffic.num_requests={regime.num_requests}",
            f"traffic.arrival={regime.arrival.value}",
            "traffic.load=null",
            f"traffic.rate={rate}",
            f"traffic.seed={seed}",
            f"traffic.labels={variant.labels.value}",
            f"device.max_seqs={regime.max_seqs}",
            f"device.num_blocks={regime.num_blocks}",
            *variant.overrides,
            *extra,
        ],
    )
