"""What one response tells: times of its chunks, tokens, and the reason it failed."""

import json
from collections.abc import Sequence

import pytest

from prelude.bench.exchange import ERROR_BYTES, Exchange
from tests.bench_server import DONE, event, text, usage


def streamed(chunks: Sequence[tuple[float, bytes]], status: int = 200) -> Exchange:
    exchange = Exchange(stream=True)
    exchange.on_head(0.5, status)
    for now, data in chunks:
        exchange.on_body(now, data)
    exchange.finish()
    return exchange


def whole(body: bytes, status: int = 200) -> Exchange:
    exchange = Exchange(stream=False)
    exchange.on_head(0.5, status)
    exchange.on_body(2.0, body)
    exchange.finish()
    return exchange


def delta(finish: str | None = None, **fields: object) -> bytes:
    return event({"choices": [{"delta": fields, "finish_reason": finish}]})


def test_a_complete_stream() -> None:
    chunks = [(1.0, text("a")), (2.0, text("b", "length")), (3.0, usage(5, 2, 4)), (4.0, DONE)]
    exchange = streamed(chunks)
    assert exchange.failure is None
    assert exchange.chunk_s == [1.0, 2.0]
    assert exchange.end_s == 2.0, "neither the usage chunk nor [DONE] is part of the answer"
    assert (exchange.output_tokens, exchange.cached_tokens) == (2, 4)
    assert exchange.usage is not None and exchange.usage.prompt_tokens == 5
    assert exchange.finish_reason == "length"


def test_chat_role_chunk_counts_as_first_chunk_but_not_as_content() -> None:
    chunks = [(1.0, delta(role="assistant", content="")), (2.0, delta(content="a")), (3.0, DONE)]
    exchange = streamed(chunks)
    assert exchange.chunk_s[0] == 1.0
    assert exchange.first_content_s == 2.0


@pytest.mark.parametrize("field", ["content", "reasoning_content", "reasoning"])
def test_text_of_every_kind_is_content(field: str) -> None:
    exchange = streamed([(1.0, delta(**{field: "a"})), (2.0, DONE)])
    assert exchange.first_content_s == 1.0


def test_a_tool_call_is_content() -> None:
    exchange = streamed([(1.0, delta(tool_calls=[{"index": 0}])), (2.0, DONE)])
    assert exchange.content_chunks == 1


def test_without_usage_chunks_with_content_are_counted() -> None:
    exchange = streamed([(1.0, text("a")), (2.0, text("b")), (2.5, text("", "stop")), (3.0, DONE)])
    assert exchange.output_tokens == 2


def test_comments_and_unknown_fields_do_not_matter() -> None:
    odd = event({"choices": [{"text": "a", "logprobs": None}], "metrics": {"x": 1}})
    exchange = streamed([(1.0, b": ping\n\n"), (2.0, odd), (3.0, DONE)])
    assert exchange.failure is None
    assert exchange.chunk_s == [2.0]


def test_several_events_at_once_share_their_time() -> None:
    exchange = streamed([(1.0, text("a") + text("b") + DONE)])
    assert exchange.chunk_s == [1.0, 1.0]


@pytest.mark.parametrize(
    ("chunks", "failure", "detail"),
    [
        ([text("a")], "truncated", "[DONE]"),
        ([DONE], "bad_stream", "no chunk with choices"),
        ([usage(1, 0), DONE], "bad_stream", "no chunk with choices"),
        ([], "bad_stream", "no chunk with choices"),
        ([b"data: {nonsense\n\n", DONE], "bad_stream", "nonsense"),
        ([event({"choices": 3}), DONE], "bad_stream", "array"),
        ([text("a"), event({"error": {"message": "oops"}}), DONE], "stream_error", "oops"),
    ],
)
def test_broken_streams(chunks: list[bytes], failure: str, detail: str) -> None:
    exchange = streamed([(float(number), data) for number, data in enumerate(chunks)])
    assert exchange.failure == failure
    assert detail in exchange.detail


def test_the_first_failure_stays() -> None:
    exchange = streamed([(1.0, event({"error": {"message": "first"}}))])
    exchange.fail("timeout")
    assert exchange.failure == "stream_error"


def test_a_refusal_keeps_its_status_and_message() -> None:
    exchange = streamed([(1.0, b'{"error": {"message": "busy"}}')], status=429)
    assert exchange.failure == "http_429"
    assert "busy" in exchange.detail
    assert exchange.chunk_s == []


def test_a_long_error_page_is_cut() -> None:
    assert len(streamed([(1.0, b"x" * 9000)], status=500).detail) == ERROR_BYTES


def test_a_whole_answer() -> None:
    counts = {"prompt_tokens": 3, "completion_tokens": 4}
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": counts}
    exchange = whole(json.dumps(body).encode())
    assert exchange.failure is None
    assert exchange.end_s == 2.0
    assert (exchange.output_tokens, exchange.finish_reason) == (4, "stop")
    assert exchange.cached_tokens == 0


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"choices": []}'])
def test_a_whole_answer_that_is_none(body: bytes) -> None:
    assert whole(body).failure == "bad_body"


def test_a_whole_refusal() -> None:
    assert whole(b"no", status=503).failure == "http_503"
