"""Sweeps for tests whose outcomes are made up: every metric is a formula of what was swept."""

from collections.abc import Callable, Sequence

import numpy as np

from prelude.conf.sweep import SweepOptions
from prelude.sweep.grid import product
from prelude.sweep.measures import SHARES
from prelude.sweep.outcome import Measure, Outcome
from prelude.sweep.points import Point, Space, space_of
from prelude.sweep.study import Study
from prelude.sweep.targets import TARGETS

LINES = (
    "batcher.policy=fcfs,priority,class_aware",
    "traffic.load=0.5,0.9",
    "traffic.seed=range(0,4)",
)
FACTORS = {"fcfs": 1.0, "priority": 0.9, "class_aware": 0.2}
Metrics = Callable[[dict[str, str]], dict[str, float]]


def metrics(swept: dict[str, str]) -> dict[str, float]:
    """class_aware is five times faster for chat, dearer for documents, and equal in tokens."""
    policy, load = swept.get("batcher.policy", "fcfs"), float(swept.get("traffic.load", 0.5))
    seed = int(swept.get("traffic.seed", 0))
    factor = FACTORS[policy]
    return {
        "total.output_tok_s": 4000 * load + seed,
        "chat.ttft_ms.p50": 20 * factor**0.1 + seed,
        "chat.ttft_ms.p99": 900 * load * factor * (1 + 0.1 * seed),
        "doc.ttft_ms.p99": 3000 * load / factor**0.3 * (1 + 0.05 * seed),
        "doc.e2e_ms.mean": 5000 * load / factor**0.3,
    }


def measure(name: str, value: float) -> Measure:
    kind, metric, stat = [*name.split("."), ""][:3]
    return Measure(kind, metric, stat, value, value * 0.9, value * 1.1)


def space(lines: Sequence[str] = LINES) -> Space:
    return space_of("simulate", TARGETS["simulate"], lines)


def points(of: Space) -> list[Point]:
    """Without the cost of composing them."""
    found = []
    for number, swept in enumerate(product(of.swept)):
        lines = tuple(f"{key}={value}" for key, value in swept)
        found.append(Point(swept, lines, SweepOptions(), f"{number:016x}"))
    return found


def outcome(point: Point, values: dict[str, float], error: str = "") -> Outcome:
    """Failed ones have nothing but their error."""
    curve = [values.get("chat.ttft_ms.p99", 1.0) * (0.02 + share**8) for share in SHARES]
    return Outcome(
        digest=point.digest,
        overrides=list(point.overrides),
        wall_s=1.5,
        started_utc="2026-01-01T00:00:00+00:00",
        versions={"prelude-llm": "0", "python": "3"},
        error=error,
        measures=[] if error else [measure(name, value) for name, value in values.items()],
        curves={} if error else {"chat": {"ttft_ms": curve, "e2e_ms": list(np.multiply(curve, 2))}},
        warnings=[] if error else ["p99 of 25 requests of doc; 1000 are asked for"],
    )


def outcomes(of: Sequence[Point], formula: Metrics = metrics) -> list[Outcome]:
    return [outcome(point, formula(dict(point.swept))) for point in of]


def study(
    lines: Sequence[str] = LINES, options: SweepOptions | None = None, formula: Metrics = metrics
) -> Study:
    of = space(lines)
    chosen = points(of)
    return Study(of, options or SweepOptions(), chosen, outcomes(chosen, formula))
