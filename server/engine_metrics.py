"""What the engine said last, as gauges and counters; read when somebody scrapes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import prelude
from prelude.client.client import EngineClient
from prelude.server.steps import StepWatch
from prelude.types.errors import REFUSAL_CODES
from prelude.types.service import SERVICE_CLASSES
from prelude.types.wire import DEATH_REASONS, ClassStats, EngineInfo, EngineStats


class _Number(NamedTuple):
    """``read`` is its value."""

    name: str
    what: str
    read: Callable[[EngineStats], float]


_GAUGES = (
    _Number("num_requests_running", "sequences in the batch", lambda s: s.num_running),
    _Number("num_requests_waiting", "sequences in the queue", lambda s: s.num_waiting),
    _Number(
        "kv_cache_usage_perc",
        "referenced share of KV blocks, 0 to 1",
        lambda s: s.num_blocks_referenced / s.num_blocks if s.num_blocks else 0.0,
    ),
    _Number("kv_blocks_cached", "free blocks that hold a prefix", lambda s: s.num_blocks_cached),
    _Number("programs_ready", "compiled programs in use", lambda s: s.programs_ready),
    _Number("programs_wanted", "compiled programs in all", lambda s: s.programs_total),
    _Number("step_seconds", "the last step", lambda s: s.step_ms / 1e3),
    _Number("step_price_seconds", "its predicted time", lambda s: s.step_price_ms / 1e3),
    _Number("step_overhead_seconds", "its host time", lambda s: s.overhead_ms / 1e3),
    _Number("step_budget_seconds", "its budget", lambda s: s.budget_ms / 1e3),
    _Number("price_error_ratio", "usual error of a price", lambda s: s.price_error),
    _Number("price_p90_ratio", "decodes over price, at p90", lambda s: s.price_p90),
)
_COUNTERS = (
    _Number("prefix_cache_queries", "prompt tokens looked up", lambda s: s.prompt_tokens),
    _Number("prefix_cache_hits", "prompt tokens found", lambda s: s.cached_prompt_tokens),
    _Number("prompt_tokens", "prompt tokens, cached ones too", lambda s: s.prompt_tokens),
    _Number("generation_tokens", "sampled tokens", lambda s: s.output_tokens),
    _Number("wasted_tokens", "sampled for nobody", lambda s: s.wasted_tokens),
    _Number("num_preemptions", "preemptions", lambda s: s.num_preemptions),
    _Number("num_parks", "slots given up with the blocks kept", lambda s: s.num_parks),
    _Number("num_swaps", "sequences whose KV went to the host", lambda s: s.num_swaps),
    _Number(
        "kv_blocks_swapped", "KV blocks copied to the host or back", lambda s: s.num_swapped_blocks
    ),
    _Number("steps", "engine steps", lambda s: s.num_steps),
    _Number(
        "programs_missed", "launches without a program of their size", lambda s: s.programs_missed
    ),
)
_CLASS_GAUGES = (
    ("waiting", "sequences in the queue"),
    ("running", "sequences in the batch"),
    ("parked", "sequences that gave up their slot"),
    ("blocks", "KV blocks held, shared ones by each"),
)


class EngineCollector(Collector):
    """``steps`` are the engine's as this process counted them."""

    def __init__(self, client: EngineClient, steps: StepWatch, model_name: str) -> None:
        self._client = client
        self._steps = steps
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        client, stats = self._client, self._client.stats
        is_up = client.state == "ready"
        yield self._gauge("engine_up", "1 while the engine answers", is_up)
        fraction = 1.0 if is_up else client.progress.fraction
        yield self._gauge("startup_ratio", "done of the present phase of a start", fraction)
        for number in _GAUGES:
            yield self._gauge(number.name, number.what, number.read(stats))
        for number in _COUNTERS:
            yield self._counter(number.name, number.what, number.read(stats))
        over = sum(self._steps.over.counts)
        yield self._counter("steps_over_budget", "steps that took longer than allowed", over)
        yield self._refused(stats.refused)
        yield from self._deaths()
        yield from self._classes(stats.classes)
        if client.info is not None:
            yield from self._engine(client.info)

    def _engine(self, info: EngineInfo) -> Iterator[Metric]:
        yield self._gauge("max_seqs", "sequences that fit into a batch", info.max_seqs)
        yield self._gauge("kv_blocks", "KV blocks in all", info.num_blocks)
        seconds = self._gauges("startup_seconds", "the engine's last start", "phase")
        for phase, value in info.startup_s.items():
            seconds.add_metric([self._model_name, phase], value)
        yield seconds
        yield self._info(
            "build_info",
            "what runs here",
            version=prelude.__version__,
            device=info.device,
            dtype=info.dtype,
            weights=info.weights or info.dtype,
        )
        sizes = {"block_size": str(info.block_size), "num_gpu_blocks": str(info.num_blocks)}
        yield self._info("cache_config_info", "the KV pool", **sizes)

    def _deaths(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "prelude_engine_restarts",
            "engines started in the place of one that ended, by how that ended",
            labels=["model_name", "reason"],
        )
        for reason in DEATH_REASONS:
            family.add_metric([self._model_name, reason], self._client.restarts[reason])
        yield family
        lost = self._client.num_lost
        yield self._counter("requests_lost", "requests that went with an engine", lost)

    def _refused(self, counts: tuple[int, ...]) -> Metric:
        family = CounterMetricFamily(
            "prelude_requests_refused",
            "requests not served, and sequences that expired",
            labels=["model_name", "reason"],
        )
        for code, count in zip(REFUSAL_CODES, counts or (0,) * len(REFUSAL_CODES), strict=True):
            family.add_metric([self._model_name, code], count)
        return family

    def _classes(self, counts: tuple[ClassStats, ...]) -> Iterator[Metric]:
        classes = counts or (ClassStats(),) * len(SERVICE_CLASSES)
        for name, what in _CLASS_GAUGES:
            family = self._gauges(f"class_{name}", what, "service_class")
            for service_class, stats in zip(SERVICE_CLASSES, classes, strict=True):
                value = getattr(stats, f"num_{name}")
                family.add_metric([self._model_name, service_class], value)
            yield family

    def _gauge(self, name: str, what: str, value: float) -> Metric:
        family = self._gauges(name, what)
        family.add_metric([self._model_name], value)
        return family

    def _gauges(self, name: str, what: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"prelude_{name}", what, labels=["model_name", *labels])

    def _counter(self, name: str, what: str, value: float) -> Metric:
        family = CounterMetricFamily(f"prelude_{name}", what, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family

    def _info(self, name: str, what: str, **labels: str) -> Metric:
        """Labels that say it all; the value is 1."""
        family = self._gauges(name, what, *labels)
        family.add_metric([self._model_name, *labels.values()], 1)
        return family
