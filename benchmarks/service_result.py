"""The result of a service benchmark, what its floor is, and what others have published."""

import statistics
from collections.abc import Sequence
from typing import Any

import msgspec

from prelude.bench.floor import floor_of, step_work
from prelude.bench.result import Environment, Probe, ServeResult
from prelude.models.spec import ModelSpec

# Requests a second and median ms by requests in flight; Qwen3-4B in bf16 on one H200, `headline`
# workload, of the Rust Prelude's README, 2026-03-18. At 16 its chart and its table disagree
# (157.6 and 137.2); this is the chart.
PUBLISHED = {
    "Rust Prelude": {
        1: (70.5, 15.4),
        4: (90.8, 41.8),
        16: (157.6, 108.5),
        64: (181.3, 328.9),
        96: (186.7, 481.2),
        128: (173.9, 760.2),
    },
    "vLLM": {
        1: (47.8, 18.1),
        4: (88.7, 45.1),
        16: (98.0, 171.3),
        64: (137.4, 410.2),
        96: (134.5, 577.5),
        128: (134.3, 750.6),
    },
    "SGLang": {
        1: (42.6, 20.8),
        4: (73.5, 40.0),
        16: (150.9, 104.7),
        64: (151.4, 418.3),
        96: (151.5, 555.5),
        128: (148.2, 707.3),
    },
}
PUBLISHED_WORKLOADS = ("headline", "headline_ids")
PUBLISHED_SHAPE = (36, 2560, 9728)  # layers, hidden and intermediate size


class Floor(msgspec.Struct, frozen=True):
    """What the probed roof allows: the first token of the mean prompt alone, a further token at
    its context, and, where prompts are all there is to do, requests a second at this load."""

    prompt_tokens: float
    first_token_ms: float
    token_ms: float
    req_s: float | None


class Level(msgspec.Struct, frozen=True):
    """One server under one load: requests in flight (closed loop) or a second (open loop).
    ``published`` has requests a second and median milliseconds of others at this load."""

    load: float
    server: str
    floor: Floor | None
    published: dict[str, tuple[float, float]]
    result: ServeResult


class ServiceResult(msgspec.Struct, frozen=True, tag="service", tag_field="benchmark"):
    environment: Environment
    workload: str
    model: str
    shape: dict[str, Any]
    dtype: str
    overrides: list[str]
    levels: list[Level]
    version: int = 1


def service_floor(
    spec: ModelSpec, dtype: str, probe: Probe, result: ServeResult, in_flight: int | None
) -> Floor | None:
    """The floor of what was really sent; None if nothing came back. ``in_flight`` requests can
    share a step; None: an open loop, which has no floor of requests a second."""
    lengths = [s.prompt_tokens for s in result.samples if s.prompt_tokens]
    outputs = [s.output_tokens for s in result.samples if s.prompt_tokens]
    if not lengths:
        return None
    mean = round(statistics.mean(lengths))

    def ms(rows: Sequence[tuple[int, int]]) -> float:
        return floor_of(step_work(spec, dtype, rows), probe).ms

    shared = in_flight is not None and max(outputs) == 1
    return Floor(
        prompt_tokens=statistics.mean(lengths),
        first_token_ms=ms([(0, mean)]),
        token_ms=ms([(mean, 1)]),
        req_s=in_flight / ms([(0, mean)] * in_flight) * 1e3 if shared and in_flight else None,
    )


def published(workload: str, spec: ModelSpec, load: float) -> dict[str, tuple[float, float]]:
    """Figures of the same workload and shape at this load; they hold on an H200."""
    shape = (spec.num_layers, spec.hidden_size, spec.intermediate_size)
    if workload not in PUBLISHED_WORKLOADS or shape != PUBLISHED_SHAPE:
        return {}
    return {name: rows[int(load)] for name, rows in PUBLISHED.items() if load in rows}
