"""Latency histograms as Prometheus text.

There are a thousand lines of them, and only their numbers change: all else is formatted once.
``prometheus_client`` needs 5 µs a line, this a tenth of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from prelude.server.latency import BOUNDS_S, ByClass, Latencies, in_all
from prelude.server.steps import StepWatch

# The bounds in seconds between which a metric's buckets are worth showing.
Span = tuple[float, float]

_FAST_SPAN, _SPAN, _LONG_SPAN = (1e-4, 10.0), (1e-3, 100.0), (1e-3, 1000.0)
# The attribute of ``Counts``, its name in Prometheus, what it is.
_BY_CLASS: tuple[tuple[str, str, str, Span], ...] = (
    ("ttft", "time_to_first_token_seconds", "arrival to first token", _SPAN),
    ("inter_token", "inter_token_latency_seconds", "between events of a choice", _FAST_SPAN),
    (
        "per_token",
        "request_time_per_output_token_seconds",
        "a choice's time per token after its first",
        _FAST_SPAN,
    ),
    ("e2e", "e2e_request_latency_seconds", "arrival to end", _LONG_SPAN),
    ("queue", "request_queue_time_seconds", "arrival to first scheduled", _SPAN),
    ("prefill", "request_prefill_time_seconds", "first scheduled to first token", _SPAN),
    ("decode", "request_decode_time_seconds", "first to last token", _LONG_SPAN),
    ("inference", "request_inference_time_seconds", "first scheduled to last token", _LONG_SPAN),
)


class Counts(Protocol):
    """What ``LatencyTexts`` renders; ``Metrics`` is one."""

    model_name: str
    ttft: ByClass
    inter_token: ByClass
    per_token: ByClass
    e2e: ByClass
    queue: ByClass
    prefill: ByClass
    decode: ByClass
    inference: ByClass
    steps: StepWatch


class LatencyTexts:
    """All of ``counts``: by service class under our prefix, where one that has not come up has no
    series; in all under vLLM's."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._model = {"model_name": counts.model_name}
        self._ours = [_Family(f"prelude_{n}", what, span_s) for _, n, what, span_s in _BY_CLASS]
        self._vllms = [_Family(f"vllm:{n}", what, span_s) for _, n, what, span_s in _BY_CLASS]
        self._steps = _Family("prelude_step_duration_seconds", "engine steps", _FAST_SPAN)

    def render(self) -> bytes:
        parts = [self._steps.render([(self._model, self._counts.steps.durations)])]
        for (attribute, *_), ours, vllms in zip(_BY_CLASS, self._ours, self._vllms, strict=True):
            classes: ByClass = getattr(self._counts, attribute)
            parts.append(
                ours.render(
                    ({**self._model, "service_class": name}, one)
                    for name, one in classes.items()
                    if any(one.counts)
                )
            )
            parts.append(vllms.render([({"engine": "0", **self._model}, in_all(classes))]))
        return "".join(parts).encode()


class _Family:
    """One metric. Of the buckets that we count in every second one is shown: five a decade."""

    def __init__(self, name: str, what: str, span_s: Span) -> None:
        self._name = name
        self._head = f"# HELP {name} {what}\n# TYPE {name} histogram\n"
        self._indices = tuple(
            n for n, bound in enumerate(BOUNDS_S) if n % 2 == 0 and span_s[0] <= bound <= span_s[1]
        )
        self._lines: dict[tuple[str, ...], _Lines] = {}

    def render(self, series: Iterable[tuple[Mapping[str, str], Latencies]]) -> str:
        """The family with a histogram for each of ``series``: its labels and its counts."""
        return self._head + "".join(self._of(labels).render(one) for labels, one in series)

    def _of(self, labels: Mapping[str, str]) -> "_Lines":
        key = tuple(labels.values())
        if (lines := self._lines.get(key)) is None:
            text = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
            lines = self._lines[key] = _Lines.make(self._name, text, self._indices)
        return lines


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of one histogram up to their numbers; ``indices`` are its buckets' places."""

    indices: tuple[int, ...]
    buckets: tuple[str, ...]
    rest: str
    count: str
    sum_s: str

    @classmethod
    def make(cls, name: str, labels: str, indices: tuple[int, ...]) -> "_Lines":
        bucket = f"{name}_bucket{{{labels},le="
        return cls(
            indices,
            tuple(f'{bucket}"{BOUNDS_S[n]}"}} ' for n in indices),
            f'{bucket}"+Inf"}} ',
            f"{name}_count{{{labels}}} ",
            f"{name}_sum{{{labels}}} ",
        )

    def render(self, latencies: Latencies) -> str:
        up_to = list(accumulate(latencies.counts))
        lines = [f"{head}{up_to[n]}\n" for n, head in zip(self.indices, self.buckets, strict=True)]
        lines += (f"{self.rest}{up_to[-1]}\n", f"{self.count}{up_to[-1]}\n")
        lines.append(f"{self.sum_s}{latencies.sum_s}\n")
        return "".join(lines)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
