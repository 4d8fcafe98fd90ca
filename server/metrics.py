"""What Prometheus may ask: vLLM's names under our prefix, so that its dashboards port by sed.

Gauges and counters of the engine are read from its last statistics when somebody scrapes;
histograms of requests are filled as their events pass through this process. Latencies carry the
service class that they were suffered in.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from prelude.client.client import EngineClient
from prelude.server.latency import BOUNDS_S, ByClass, Latencies, by_class
from prelude.server.steps import StepWatch
from prelude.types.errors import REFUSAL_CODES
from prelude.types.service import SERVICE_CLASSES, ServiceClass
from prelude.types.wire import ClassStats

Span = tuple[float, float]

_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)


class Metrics:
    """One registry for one server. ``text()`` is the answer to a scrape."""

    def __init__(self, client: EngineClient, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(client, model_name))
        self._model_name = model_name
        self.ttft = by_class()
        self.inter_token = by_class()
        self.e2e = by_class()
        self.queue = by_class()
        self.steps = client.on_stats = StepWatch()
        self.registry.register(_LatencyCollector(self, model_name))
        self.prompt_tokens = self._histogram("request_prompt_tokens", "prompt length", _TOKENS)
        self.output_tokens = self._histogram("request_generation_tokens", "answer length", _TOKENS)
        self._finished = self._counter(
            "request_success", "choices by how they ended", "finished_reason"
        )
        self._requests = self._counter("http_requests", "HTTP requests", "route", "status")
        self._unknown = self._counter("unknown_fields", "unknown request fields", "field")
        seconds = self._counter("frontend_seconds", "time spent by this process", "phase")
        self.prepare_seconds = seconds.labels(model_name, "prepare")
        self.stream_seconds = seconds.labels(model_name, "stream")

    def finished(self, reason: str) -> None:
        self._finished.labels(self._model_name, reason).inc()

    def responded(self, route: str, status: int) -> None:
        self._requests.labels(self._model_name, route, str(status)).inc()

    def unknown_field(self, name: str) -> None:
        self._unknown.labels(self._model_name, name).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _histogram(self, name: str, what: str, buckets: Iterable[float]) -> Histogram:
        family = Histogram(
            f"prelude_{name}",
            what,
            ("model_name",),
            buckets=tuple(buckets),
            registry=self.registry,
        )
        return family.labels(self._model_name)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"prelude_{name}", what, ("model_name", *labels), registry=self.registry)


class _LatencyCollector(Collector):
    """Every second bucket that we count in, five a decade, between the bounds that the metric is
    about. A class that has not come up yet has no series."""

    def __init__(self, metrics: Metrics, model_name: str) -> None:
        self._metrics = metrics
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        of = self._metrics
        yield self._classes(
            "time_to_first_token_seconds", "arrival to first token", of.ttft, (0.001, 100.0)
        )
        yield self._classes(
            "inter_token_latency_seconds",
            "between two events of a choice",
            of.inter_token,
            (0.0001, 10.0),
        )
        yield self._classes(
            "e2e_request_latency_seconds", "arrival to end", of.e2e, (0.001, 1000.0)
        )
        yield self._classes(
            "request_queue_time_seconds", "arrival to first scheduled", of.queue, (0.001, 100.0)
        )
        steps = self._family("step_duration_seconds", "engine steps", "model_name")
        _add(steps, [self._model_name], of.steps.durations, (0.0001, 10.0))
        yield steps
        over = CounterMetricFamily(
            "prelude_steps_over_budget", "steps that took longer", labels=["model_name"]
        )
        over.add_metric([self._model_name], sum(of.steps.over.counts))
        yield over

    def _classes(self, name: str, what: str, classes: ByClass, span_s: Span) -> Metric:
        family = self._family(name, what, "model_name", "service_class")
        for service_class, latencies in classes.items():
            if any(latencies.counts):
                _add(family, [self._model_name, service_class], latencies, span_s)
        return family

    def _family(self, name: str, what: str, *labels: str) -> HistogramMetricFamily:
        return HistogramMetricFamily(f"prelude_{name}", what, labels=labels)


def _add(
    family: HistogramMetricFamily, labels: list[str], latencies: Latencies, span_s: Span
) -> None:
    up_to = list(accumulate(latencies.counts))
    buckets = [
        (str(bound), float(up_to[n]))
        for n, bound in enumerate(BOUNDS_S)
        if n % 2 == 0 and span_s[0] <= bound <= span_s[1]
    ]
    family.add_metric(labels, [*buckets, ("+Inf", float(up_to[-1]))], latencies.sum_s)


class _EngineCollector(Collector):
    def __init__(self, client: EngineClient, model_name: str) -> None:
        self._client = client
        self._labels = [model_name]

    def collect(self) -> Iterator[Metric]:
        stats = self._client.stats
        used = stats.num_blocks_referenced / stats.num_blocks if stats.num_blocks else 0.0
        yield self._gauge("engine_up", "1 while the engine answers", self._client.state == "ready")
        yield self._gauge("num_requests_running", "sequences in the batch", stats.num_running)
        yield self._gauge("num_requests_waiting", "sequences in the queue", stats.num_waiting)
        yield self._gauge("kv_cache_usage_perc", "referenced share of KV blocks, 0 to 1", used)
        yield self._gauge(
            "kv_blocks_cached", "free blocks that hold a prefix", stats.num_blocks_cached
        )
        yield self._gauge("programs_ready", "compiled programs in use", stats.programs_ready)
        yield self._gauge("programs_wanted", "compiled programs in all", stats.programs_total)
        yield self._gauge("step_seconds", "the last step", stats.step_ms / 1e3)
        yield self._gauge("step_price_seconds", "its predicted time", stats.step_price_ms / 1e3)
        yield self._gauge("step_overhead_seconds", "its host time", stats.overhead_ms / 1e3)
        yield self._gauge("step_budget_seconds", "its budget", stats.budget_ms / 1e3)
        yield self._gauge("price_error_ratio", "usual error of a price", stats.price_error)
        yield self._gauge("price_p90_ratio", "decodes over price, at p90", stats.price_p90)
        yield self._counter("prefix_cache_queries", "prompt tokens looked up", stats.prompt_tokens)
        yield self._counter("prefix_cache_hits", "prompt tokens found", stats.cached_prompt_tokens)
        yield self._counter("prompt_tokens", "prompt tokens, cached ones too", stats.prompt_tokens)
        yield self._counter("generation_tokens", "sampled tokens", stats.output_tokens)
        yield self._counter("wasted_tokens", "sampled for nobody", stats.wasted_tokens)
        yield self._counter("num_preemptions", "preemptions", stats.num_preemptions)
        yield self._counter("num_parks", "slots given up with the blocks kept", stats.num_parks)
        yield self._counter("num_swaps", "sequences whose KV went to the host", stats.num_swaps)
        yield self._counter(
            "kv_blocks_swapped", "KV blocks copied to the host or back", stats.num_swapped_blocks
        )
        yield self._counter("steps", "engine steps", stats.num_steps)
        yield self._counter(
            "programs_missed", "launches without a program of their size", stats.programs_missed
        )
        yield self._refused(stats.refused)
        classes = stats.classes or (ClassStats(),) * len(SERVICE_CLASSES)
        named = dict(zip(SERVICE_CLASSES, classes, strict=True))
        yield self._classes("waiting", "sequences in the queue", named)
        yield self._classes("running", "sequences in the batch", named)
        yield self._classes("parked", "sequences that gave up their slot", named)
        yield self._classes("blocks", "KV blocks held, shared ones by each", named)

    def _refused(self, counts: tuple[int, ...]) -> Metric:
        family = CounterMetricFamily(
            "prelude_requests_refused",
            "requests not served, and sequences that expired",
            labels=["model_name", "reason"],
        )
        for code, count in zip(REFUSAL_CODES, counts or (0,) * len(REFUSAL_CODES), strict=True):
            family.add_metric([*self._labels, code], count)
        return family

    def _classes(self, what: str, help_text: str, named: dict[ServiceClass, ClassStats]) -> Metric:
        labels = ["model_name", "service_class"]
        family = GaugeMetricFamily(f"prelude_class_{what}", help_text, labels=labels)
        for service_class, stats in named.items():
            family.add_metric([*self._labels, service_class], getattr(stats, f"num_{what}"))
        return family

    def _gauge(self, name: str, what: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"prelude_{name}", what, labels=["model_name"])
        family.add_metric(self._labels, value)
        return family

    def _counter(self, name: str, what: str, value: float) -> Metric:
        family = CounterMetricFamily(f"prelude_{name}", what, labels=["model_name"])
        family.add_metric(self._labels, value)
        return family
