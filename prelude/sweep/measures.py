"""From a target's result to measures: one walk over whatever summaries and numbers it holds."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from prelude.bench.result import (
    ClassReport,
    EngineResult,
    Interval,
    PricesResult,
    RequestSample,
    ServeResult,
    StepTiming,
    Summary,
)
from prelude.simulate.result import SimulateResult
from prelude.sweep.outcome import Curves, Measure

# Shares of requests at which a distribution is kept: evenly up to the median, then ever closer to
# the worst, evenly in the logarithm of what is left.
SHARES: tuple[float, ...] = (
    0.0,
    *(round(0.05 * step, 2) for step in range(1, 10)),
    *(round(1 - 0.5 * 10 ** (-step / 10), 5) for step in range(28)),
)
CURVES = ("ttft_ms", "e2e_ms", "tpot_ms", "stall_ms")
_STATS = ("p50", "p90", "p99")
_MORE_IS_BETTER = ("_s", "attainment", "fairness", "num_completed", "_share")
_NOT_A_RATE = ("simulated_s", "wall_s", "cpu_share")


def is_higher_better(name: str) -> bool:
    """Of a measure's name: rates and shares are better when higher, times and counts of what went
    wrong when lower."""
    metric = metric_of(name)
    return metric.endswith(_MORE_IS_BETTER) and not metric.endswith(_NOT_A_RATE)


def metric_of(name: str) -> str:
    """``ttft_ms`` of ``chat.ttft_ms.p99``."""
    parts = name.split(".")
    return parts[-2] if parts[-1] in (*_STATS, "mean", "max") else parts[-1]


def measures_of(result: msgspec.Struct) -> list[Measure]:
    """All numbers of a result."""
    if isinstance(result, SimulateResult):
        found = [*_classes(result.total, result.classes), *_walk("run", result.steps)]
        found.append(Measure("run", "simulated_s", "", result.simulated_s))
        found += _walk("run", result.load)
        if result.fairness is not None:
            found.append(Measure("run", "fairness", "", result.fairness))
        return found
    if isinstance(result, ServeResult):
        found = list(_classes(result.total, result.classes))
        return [*found, *_walk("generator", result.generator)]
    if isinstance(result, EngineResult):
        return [
            measure
            for timing in result.timings
            for measure in _walk(_shape(timing), timing)
            if measure.metric not in ("batch", "tokens", "context")
        ]
    assert isinstance(result, PricesResult)
    found = list(_walk("all", result.error))
    return found + [m for kind, error in result.errors.items() for m in _walk(kind, error)]


def _shape(timing: StepTiming) -> str:
    """A decode's new tokens are its rows."""
    tokens = "" if timing.kind == "decode" else f"_t{timing.tokens}"
    return f"{timing.kind}_b{timing.batch}{tokens}_c{timing.context}"


def curves_of(samples: Sequence[RequestSample]) -> Curves:
    """The distributions of completed requests, by class."""
    curves: Curves = {}
    for kind in dict.fromkeys(sample.kind for sample in samples):
        done = [s for s in samples if s.kind == kind and s.failure is None]
        for metric in CURVES:
            values = [value for s in done if (value := getattr(s, metric)) is not None]
            if values:
                points = np.quantile(values, SHARES)
                curves.setdefault(kind, {})[metric] = [float(f"{point:.4g}") for point in points]
    return curves


def _classes(total: ClassReport, classes: Mapping[str, ClassReport]) -> Iterator[Measure]:
    for kind, report in {"total": total, **classes}.items():
        yield from _walk(kind, report)
        yield Measure(kind, "num_failed", "", float(sum(report.failures.values())))


def _walk(kind: str, record: msgspec.Struct) -> Iterator[Measure]:
    """Numbers and summaries; counters by name and nested records stay in the result."""
    for metric in record.__struct_fields__:
        value = getattr(record, metric)
        if isinstance(value, Summary):
            yield Measure(kind, metric, "mean", value.mean)
            for stat in _STATS:
                point: Interval = getattr(value, stat)
                yield Measure(kind, metric, stat, point.value, point.low, point.high)
            yield Measure(kind, metric, "max", value.max)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield Measure(kind, metric, "", float(value))
