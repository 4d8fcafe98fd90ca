"""What Prometheus may ask: vLLM's names under our prefix and with service classes, and beside
them the same numbers under vLLM's own prefix and labels, for dashboards that were made for it.

Gauges and counters of the engine are read from its last statistics when somebody scrapes;
histograms of requests are filled as their events pass through this process. Latencies carry the
service class that they were suffered in.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from prelude.client.client import EngineClient
from prelude.server.engine_metrics import EngineCollector
from prelude.server.histogram_text import HistogramTexts
from prelude.server.latency import Sizes, by_class
from prelude.server.steps import StepWatch
from prelude.server.vllm_names import VllmCollector
from prelude.types.service import ServiceClass

_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
_CHOICES = (1, 2, 5, 10, 20)


class Metrics:
    """One registry for one server. ``text()`` is the answer to a scrape."""

    def __init__(self, client: EngineClient, model_name: str) -> None:
        # A second series for every counter, which nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.model_name = model_name
        self.ttft = by_class()
        self.inter_token = by_class()
        self.per_token = by_class()
        self.e2e = by_class()
        self.queue = by_class()
        self.prefill = by_class()
        self.decode = by_class()
        self.inference = by_class()
        self.steps = client.on_stats = StepWatch()
        self._finished = self.counter(
            "request_success", "choices by how they ended", "finished_reason", "service_class"
        )
        self.prompt_tokens, self.output_tokens, self.max_tokens = [Sizes(_TOKENS) for _ in range(3)]
        self.num_choices = Sizes(_CHOICES)
        engine = EngineCollector(client, self.steps, model_name)
        for collector in (ProcessCollector(registry=None), engine):
            self.registry.register(collector)
        self.registry.register(VllmCollector((engine, self._finished)))
        self._requests = self.counter("http_requests", "HTTP requests", "route", "status")
        self._errors = self.counter("errors", "errors that clients were told of", "code")
        self._unknown = self.counter("unknown_fields", "unknown request fields", "field")
        seconds = self.counter("frontend_seconds", "time spent by this process", "phase")
        self.prepare_seconds = seconds.labels(model_name, "prepare")
        self.stream_seconds = seconds.labels(model_name, "stream")
        self._histograms = HistogramTexts(self)

    def finished(self, reason: str, service_class: ServiceClass) -> None:
        self._finished.labels(self.model_name, reason, service_class).inc()

    def responded(self, route: str, status: int, error: str | None) -> None:
        """``error`` is the code of what the client was told that went wrong, if anything did."""
        self._requests.labels(self.model_name, route, str(status)).inc()
        if error is not None:
            self._errors.labels(self.model_name, error).inc()

    def unknown_field(self, name: str) -> None:
        self._unknown.labels(self.model_name, name).inc()

    def counter(self, name: str, what: str, *labels: str) -> Counter:
        """A new one, ``prelude_NAME_total``; its first label is ``model_name``. The values of
        labels must come from sets that clients cannot extend without bound."""
        return Counter(f"prelude_{name}", what, ("model_name", *labels), registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry) + self._histograms.render()
