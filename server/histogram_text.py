"""Histograms as Prometheus text.

There are a thousand lines of them, and only their numbers change: all else is formatted once.
``prometheus_client`` needs 5 µs a line, this a tenth of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from prelude.server.latency import BOUNDS_S, ByClass, Latencies, Sizes, in_all
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


_SIZES: tuple[tuple[str, str, str], ...] = (
    ("prompt_tokens", "request_prompt_tokens", "prompt length"),
    ("output_tokens", "request_generation_tokens", "answer length"),
    ("max_tokens", "request_params_max_tokens", "how long an answer could get"),
    ("num_choices", "request_params_n", "answers asked for"),
)


class Counts(Protocol):
    """What ``HistogramTexts`` renders; ``Metrics`` is one."""

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
    prompt_tokens: Sizes
    output_tokens: Sizes
    max_tokens: Sizes
    num_choices: Sizes


class HistogramTexts:
    """All of ``counts``: latencies by service class under our prefix, where one that has not come
    up has no series; in all under vLLM's."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._model = {"model_name": counts.model_name}
        self._vllms = {"engine": "0", **self._model}
        self._steps = _latencies("prelude_step_duration_seconds", "engine steps", _FAST_SPAN)
        self._by_class = [
            (of, _latencies(f"prelude_{name}", what, s), _latencies(f"vllm:{name}", what, s))
            for of, name, what, s in _BY_CLASS
        ]
        self._sizes = [
            (of, _sizes(f"prelude_{name}", what, of), _sizes(f"vllm:{name}", what, of))
            for attribute, name, what in _SIZES
            for of in (getattr(counts, attribute),)
        ]

    def render(self) -> bytes:
        counts = self._counts
        parts = [self._steps.render([_row(self._model, counts.steps.durations)])]
        for attribute, ours, vllms in self._by_class:
            classes: ByClass = getattr(counts, attribute)
            parts += (
                ours.render(
                    _row({**self._model, "service_class": name}, one)
                    for name, one in classes.items()
                    if any(one.counts)
                ),
                vllms.render([_row(self._vllms, in_all(classes))]),
            )
        for sizes, ours, vllms in self._sizes:
            parts += (
                ours.render([(self._model, sizes.counts, sizes.total)]),
                vllms.render([(self._vllms, sizes.counts, sizes.total)]),
            )
        return "".join(parts).encode()


# Labels, counts by bucket and sum of one histogram.
Row = tuple[Mapping[str, str], Sequence[int], float]
# The place of a bucket among the counts, and its upper end.
Bucket = tuple[int, float]


def _row(labels: Mapping[str, str], latencies: Latencies) -> Row:
    return labels, latencies.counts, latencies.sum_s


def _latencies(name: str, what: str, span_s: Span) -> "_Family":
    """Of the buckets that we count in every second one is shown: five a decade."""
    low_s, high_s = span_s
    buckets = [(n, bound) for n, bound in enumerate(BOUNDS_S) if n % 2 == 0]
    return _Family(name, what, [(n, bound) for n, bound in buckets if low_s <= bound <= high_s])


def _sizes(name: str, what: str, sizes: Sizes) -> "_Family":
    return _Family(name, what, [(n, float(bound)) for n, bound in enumerate(sizes.bounds)])


class _Family:
    """One metric."""

    def __init__(self, name: str, what: str, buckets: Sequence[Bucket]) -> None:
        self._name = name
        self._head = f"# HELP {name} {what}\n# TYPE {name} histogram\n"
        self._buckets = tuple(buckets)
        self._lines: dict[tuple[str, ...], _Lines] = {}

    def render(self, rows: Iterable[Row]) -> str:
        return self._head + "".join(
            self._of(labels).render(counts, total) for labels, counts, total in rows
        )

    def _of(self, labels: Mapping[str, str]) -> "_Lines":
        key = tuple(labels.values())
        if (lines := self._lines.get(key)) is None:
            text = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
            lines = self._lines[key] = _Lines.make(self._name, text, self._buckets)
        return lines


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of one histogram up to their numbers; ``indices`` are its buckets' places."""

    indices: tuple[int, ...]
    buckets: tuple[str, ...]
    rest: str
    count: str
    total: str

    @classmethod
    def make(cls, name: str, labels: str, buckets: Sequence[Bucket]) -> "_Lines":
        head = f"{name}_bucket{{{labels},le="
        return cls(
            tuple(n for n, _ in buckets),
            tuple(f'{head}"{bound}"}} ' for _, bound in buckets),
            f'{head}"+Inf"}} ',
            f"{name}_count{{{labels}}} ",
            f"{name}_sum{{{labels}}} ",
        )

    def render(self, counts: Sequence[int], total: float) -> str:
        up_to = list(accumulate(counts))
        lines = [f"{head}{up_to[n]}\n" for n, head in zip(self.indices, self.buckets, strict=True)]
        lines += (f"{self.rest}{up_to[-1]}\n", f"{self.count}{up_to[-1]}\n")
        lines.append(f"{self.total}{total}\n")
        return "".join(lines)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
