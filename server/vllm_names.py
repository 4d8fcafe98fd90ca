"""The metrics that mean what vLLM's of the same name mean, once more under its prefix and with its
labels, so that dashboards, autoscalers and gateways made for it work as they are.
"""

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_OURS, _ITS = "prelude_", "vllm:"
# Histograms are rendered under both names in ``histogram_text``.
SAME = frozenset(
    {
        "cache_config_info",
        "generation_tokens",
        "kv_cache_usage_perc",
        "num_preemptions",
        "num_requests_running",
        "num_requests_waiting",
        "prefix_cache_hits",
        "prefix_cache_queries",
        "prompt_tokens",
        "request_success",
    }
)


class VllmCollector(Collector):
    """What ``sources`` collect and vLLM has a name for."""

    def __init__(self, sources: Iterable[Collector]) -> None:
        self._sources = tuple(sources)

    def collect(self) -> Iterator[Metric]:
        for source in self._sources:
            for family in source.collect():
                if family.name.removeprefix(_OURS) in SAME:
                    yield _renamed(family)


def _renamed(family: Metric) -> Metric:
    """Service classes, which vLLM does not have, added up."""
    found = Metric(_its(family.name), family.documentation, family.type)
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue
        labels = {name: value for name, value in sample.labels.items() if name != "service_class"}
        key = _its(sample.name), tuple(sorted({"engine": "0", **labels}.items()))
        sums[key] = sums.get(key, 0.0) + sample.value
    found.samples = [Sample(name, dict(labels), value) for (name, labels), value in sums.items()]
    return found


def _its(name: str) -> str:
    return _ITS + name.removeprefix(_OURS)
