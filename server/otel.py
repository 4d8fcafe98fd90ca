"""One span for each request, named and described as the GenAI semantic conventions have it, with
children for the time in the queue, the prefill and the decode. Never a word of prompt or answer.

Source: OpenTelemetry semantic conventions for generative AI (development status), and for HTTP.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from random import random
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.trace import (
    Link,
    SpanKind,
    Status,
    StatusCode,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.datastructures import Headers
from starlette.types import Scope

import prelude
from prelude.conf.schema import TracingConfig
from prelude.logs import about
from prelude.server.generation import Generation
from prelude.server.observe import is_quiet, route_of

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_EXPORT_S = 3.0  # with all attempts; a server that ends waits as long for a collector that is gone
_PROPAGATOR = TraceContextTextMapPropagator()

Attributes = dict[str, AttributeValue]


class Share(Sampler):
    """Keeps so many of all spans, whatever their trace's id: a caller may have chosen that one."""

    def __init__(self, sample: float) -> None:
        self._sample = sample

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        is_kept = random() < self._sample
        decision = Decision.RECORD_AND_SAMPLE if is_kept else Decision.DROP
        return SamplingResult(decision, attributes, trace_state)

    def get_description(self) -> str:
        return f"Share{{{self._sample}}}"


def sampler(sample: float, trusts_parents: bool) -> Sampler:
    """Of the traces that begin here the share ``sample`` is kept. What callers decided on holds
    where they said no, and where they said yes if they are to be trusted: else anybody could have
    everything traced."""
    share = Share(sample)
    if trusts_parents:
        return ParentBased(share)
    return ParentBased(share, remote_parent_sampled=share)


def exporting(config: TracingConfig) -> TracerProvider:
    """Sends spans to the endpoint of ``config`` in batches, from a thread of its own."""
    named = {SERVICE_NAME: "prelude", SERVICE_VERSION: prelude.__version__}
    provider = TracerProvider(
        sampler=sampler(config.sample, config.trust_parent),
        resource=Resource.create(named),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=config.endpoint, timeout=_EXPORT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class Spans:
    """A ``Tracer``."""

    def __init__(self, provider: TracerProvider, model_name: str) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("prelude", prelude.__version__)
        self._model_name = model_name

    def record(self, scope: Scope, status: int, start_s: float) -> None:
        if is_quiet(scope):
            return
        end_ns = time.time_ns()
        start_ns = end_ns - round((time.monotonic() - start_s) * 1e9)
        attributes = self._attributes(scope, status)
        span = self._tracer.start_span(
            self._name(scope), _parent(scope), SpanKind.SERVER, attributes, start_time=start_ns
        )
        if ERROR_TYPE in attributes and (status >= 500 or status < 400):
            span.set_status(Status(StatusCode.ERROR))
        inside = set_span_in_context(span)
        for name, begin_ns, until_ns in _phases(_generation(scope), start_ns):
            self._tracer.start_span(name, inside, start_time=begin_ns).end(until_ns)
        span.end(end_ns)

    def close(self) -> None:
        self._provider.shutdown()

    def _name(self, scope: Scope) -> str:
        route = route_of(scope)
        operation = _OPERATIONS.get(route)
        return f"{operation} {self._model_name}" if operation else f"{scope['method']} {route}"

    def _attributes(self, scope: Scope, status: int) -> Attributes:
        state, route = scope["state"], route_of(scope)
        found: Attributes = {
            HTTP_REQUEST_METHOD: scope["method"],
            HTTP_ROUTE: route,
            HTTP_RESPONSE_STATUS_CODE: status,
            "prelude.request_id": state["request_id"],
        }
        if (operation := _OPERATIONS.get(route)) is not None:
            found |= {
                gen_ai.GEN_AI_OPERATION_NAME: operation,
                gen_ai.GEN_AI_PROVIDER_NAME: "prelude",
                gen_ai.GEN_AI_REQUEST_MODEL: self._model_name,
            }
        if (principal := state.get("principal")) is not None and principal.name:
            found["prelude.key"] = principal.name
        if (now := about.get()) is not None and now.error is not None:
            found[ERROR_TYPE] = now.error
        if (generation := _generation(scope)) is not None:
            found |= _asked(generation) | _answered(generation, self._model_name)
        return found


def _generation(scope: Scope) -> Generation | None:
    found = scope["state"].get("generation")
    return found if isinstance(found, Generation) else None


def _asked(generation: Generation) -> Attributes:
    params = generation.params
    found: dict[str, AttributeValue | None] = {
        gen_ai.GEN_AI_REQUEST_MAX_TOKENS: params.max_tokens,
        gen_ai.GEN_AI_REQUEST_TEMPERATURE: params.temperature,
        gen_ai.GEN_AI_REQUEST_TOP_P: params.top_p,
        gen_ai.GEN_AI_REQUEST_TOP_K: params.top_k or None,
        gen_ai.GEN_AI_REQUEST_SEED: params.seed,
        gen_ai.GEN_AI_REQUEST_FREQUENCY_PENALTY: params.frequency_penalty or None,
        gen_ai.GEN_AI_REQUEST_PRESENCE_PENALTY: params.presence_penalty or None,
        gen_ai.GEN_AI_REQUEST_CHOICE_COUNT: params.n if params.n > 1 else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _answered(generation: Generation, model_name: str) -> Attributes:
    usage, timings = generation.usage(), generation.timings()
    reasons = [choice.finish_reason or "abort" for choice in generation.choices]
    found: Attributes = {
        gen_ai.GEN_AI_RESPONSE_MODEL: model_name,
        gen_ai.GEN_AI_RESPONSE_FINISH_REASONS: reasons,
        gen_ai.GEN_AI_USAGE_INPUT_TOKENS: usage.prompt_tokens,
        gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: usage.completion_tokens,
        gen_ai.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: usage.cached_tokens,
    }
    if "service_class" in timings:
        found["prelude.service_class"] = timings["service_class"]
    if "ttft_ms" in timings:
        found[gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = float(timings["ttft_ms"]) / 1e3
    return found


def _phases(generation: Generation | None, start_ns: int) -> Iterator[tuple[str, int, int]]:
    """Name, begin and end: of the first choice in the engine, and of all from the first token on.
    They are laid out backwards from the first token, which this process saw itself."""
    timings = generation.timings() if generation is not None else {}
    if "ttft_ms" not in timings or "prefill_ms" not in timings:
        return
    first_ns = start_ns + _ns(timings["ttft_ms"])
    scheduled_ns = first_ns - _ns(timings["prefill_ms"])
    yield "queue", scheduled_ns - _ns(timings["queue_ms"]), scheduled_ns
    yield "prefill", scheduled_ns, first_ns
    yield "decode", first_ns, first_ns + _ns(timings["decode_ms"])


def _ns(ms: float | str) -> int:
    return round(float(ms) * 1e6)


def _parent(scope: Scope) -> Context:
    """Of the caller's trace (W3C ``traceparent``), where there is one."""
    headers = Headers(scope=scope)
    carrier = {name: headers[name] for name in _PROPAGATOR.fields if name in headers}
    return _PROPAGATOR.extract(carrier, Context())
