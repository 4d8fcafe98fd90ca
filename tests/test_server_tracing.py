"""Spans of requests: their names, their children, their parents, and what they never say."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from prelude.conf.schema import TracingConfig
from prelude.server.otel import Spans, sampler
from prelude.server.tracing import make_tracer
from tests.server_harness import Engine, Gate, Harness, serving

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What the spans of the next server come to."""
    found = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(
        "prelude.server.app.make_tracer", lambda config, name: Spans(provider, name)
    )
    return found


@asynccontextmanager
async def traced(
    exporter: InMemorySpanExporter, engine: Engine | None = None
) -> AsyncIterator[Harness]:
    async with serving(engine) as server:
        yield server
        await server.until(lambda: server.services.lifecycle.num_open == 0)
        await server.until(lambda: bool(exporter.get_finished_spans()))


def root(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = [one for one in exporter.get_finished_spans() if one.kind is SpanKind.SERVER]
    return span


def children(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    spans = exporter.get_finished_spans()
    return {one.name: one for one in spans if one.kind is not SpanKind.SERVER}


async def test_a_chat_answer(exporter: InMemorySpanExporter) -> None:
    async with traced(exporter) as server:
        response = await server.chat(max_tokens=4, temperature=0.5, seed=7, n=2)
    span = root(exporter)
    assert span.name == "chat test-model"
    assert span.parent is None
    found = dict(span.attributes or {})
    usage = response.json()["usage"]
    assert found.pop("gen_ai.response.time_to_first_chunk", 0) > 0  # type: ignore[operator]
    assert found == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "prelude.request_id": response.headers["x-request-id"],
        "prelude.service_class": "fast",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "prelude",
        "gen_ai.request.model": "test-model",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.seed": 7,
        "gen_ai.request.choice.count": 2,
        "gen_ai.response.model": "test-model",
        "gen_ai.response.finish_reasons": ("length", "length"),
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_its_children_follow_one_another(exporter: InMemorySpanExporter) -> None:
    async with traced(exporter) as server:
        await server.chat_events(max_tokens=4)
    span, found = root(exporter), children(exporter)
    assert list(found) == ["queue", "prefill", "decode"]
    queue, prefill, decode = found.values()
    for child in found.values():
        assert child.parent is not None and span.context is not None
        assert child.parent.span_id == span.context.span_id
        assert child.start_time is not None and child.end_time is not None
        assert child.start_time <= child.end_time
    assert queue.end_time == prefill.start_time
    assert prefill.end_time == decode.start_time
    assert span.start_time is not None and span.end_time is not None
    assert decode.end_time is not None and decode.end_time <= span.end_time + 1_000_000


async def test_it_belongs_to_the_callers_trace(exporter: InMemorySpanExporter) -> None:
    async with traced(exporter) as server:
        headers = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
        body = {"prompt": "the", "max_tokens": 2}
        await server.http.post("/v1/completions", json=body, headers=headers)
    span = root(exporter)
    assert span.name == "text_completion test-model"
    assert span.context is not None and span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE_ID
    assert f"{span.parent.span_id:016x}" == SPAN_ID


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{SPAN_ID}-01"])
async def test_a_bad_parent_is_none(exporter: InMemorySpanExporter, header: str) -> None:
    async with traced(exporter) as server:
        await server.http.get("/v1/models", headers={"traceparent": header})
    assert root(exporter).parent is None
    assert root(exporter).name == "GET /v1/models"


async def test_what_was_refused(exporter: InMemorySpanExporter) -> None:
    async with traced(exporter) as server:
        await server.chat(top_p=7)
    span = root(exporter)
    assert (span.attributes or {})["error.type"] == "invalid_value"
    assert (span.attributes or {})["http.response.status_code"] == 400
    assert span.status.status_code is StatusCode.UNSET  # the client's doing
    assert children(exporter) == {}


async def test_what_failed_on_the_way(exporter: InMemorySpanExporter) -> None:
    gate = Gate()
    async with traced(exporter, Engine(gate=gate)) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        gate.allow(5)
        async with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.aiter_lines()
            await anext(lines)
            await server.services.lifecycle.drain(0)
            assert [line async for line in lines]
    span = root(exporter)
    assert (span.attributes or {})["error.type"] == "shutdown"
    assert span.status.status_code is StatusCode.ERROR
    assert "queue" in children(exporter)


async def test_polling_leaves_no_trace_and_nobody_is_quoted(exporter: InMemorySpanExporter) -> None:
    async with traced(exporter) as server:
        await server.http.get("/health/ready")
        await server.http.get("/metrics")
        await server.complete(prompt="zeppelin", stop=["zeppelin"], max_tokens=2)
    assert root(exporter).name == "text_completion test-model"
    assert "zeppelin" not in "".join(span.to_json() for span in exporter.get_finished_spans())


@pytest.mark.parametrize(
    ("sample", "trusts", "flags", "is_kept"),
    [
        (0.0, False, "01", False),  # else anybody could have everything traced
        (0.0, True, "01", True),
        (1.0, False, "01", True),
        (1.0, False, "00", False),
        (1.0, True, "00", False),
        (1.0, False, None, True),
        (0.0, True, None, False),
    ],
)
def test_whose_word_counts(sample: float, trusts: bool, flags: str | None, is_kept: bool) -> None:
    found = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler(sample, trusts), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(found))
    # An id that a sampler which goes by ids keeps at any share.
    parent = f"00-{'0' * 31}1-{SPAN_ID}-{flags}"
    headers = [] if flags is None else [(b"traceparent", parent.encode())]
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": headers}
    Spans(provider, "m").record(scope | {"state": {"request_id": "r"}}, 200, 0.0)
    assert bool(found.get_finished_spans()) is is_kept


def test_off_it_costs_no_import() -> None:
    code = """
import sys
import prelude.server.app
from prelude.conf.schema import TracingConfig
from prelude.server.tracing import make_tracer
assert make_tracer(TracingConfig(), "m") is None
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_opentelemetry_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prelude.server.otel", None)
    with pytest.raises(
        ValueError, match=r"server.tracing.endpoint.*pip install 'prelude-llm\[otel"
    ):
        make_tracer(TracingConfig(endpoint="http://127.0.0.1:4318/v1/traces"), "m")
