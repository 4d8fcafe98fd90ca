"""Whatever goes wrong has a status, the field at fault and a code."""

import re

import msgspec
import pytest

from prelude.client.client import EngineDeadError
from prelude.server.errors import (
    ApiError,
    engine_gone,
    from_engine,
    from_msgspec,
    from_value_error,
    internal_error,
    invalid,
    retry_later,
    unsupported,
)
from prelude.server.protocol import ChatRequest
from prelude.types.errors import REFUSAL_CODES, Refusal, RefusalCode


def body(error: ApiError) -> dict[str, str | None]:
    decoded = msgspec.json.decode(error.body())
    assert list(decoded) == ["error"]
    assert list(decoded["error"]) == ["message", "type", "param", "code"]
    found: dict[str, str | None] = decoded["error"]
    return found


def decode(text: str) -> ApiError:
    with pytest.raises(msgspec.DecodeError) as caught:
        msgspec.json.decode(text, type=ChatRequest)
    return from_msgspec(caught.value)


@pytest.mark.parametrize(
    ("text", "param", "code"),
    [
        ('{"messages": [], "top_k": "x"}', "top_k", "invalid_type"),
        ('{"messages": [3]}', "messages.0", "invalid_type"),
        ('{"messages": [], "stop": ["a", 3]}', "stop.1", "invalid_type"),
        (
            '{"messages": [], "stream_options": {"include_usage": 3}}',
            "stream_options.include_usage",
            "invalid_type",
        ),
        ('{"messages": [], "logit_bias": {"x": 1}}', "logit_bias", "invalid_type"),
        ("{}", "messages", "missing_required_parameter"),
        ("[]", None, "invalid_type"),
        ('{"messages": [}', None, "invalid_json"),
        ("", None, "invalid_json"),
    ],
)
def test_broken_bodies_name_the_field(text: str, param: str | None, code: str) -> None:
    error = decode(text)
    assert error.status == 400
    assert error.code == code
    found = body(error)
    assert found["param"] == param
    assert found["type"] == "invalid_request_error"
    assert "`" not in (found["message"] or "")


def test_value_errors_keep_their_field() -> None:
    error = from_value_error(ValueError("top_p: must be in (0, 1]"))
    assert (error.param, error.message) == ("top_p", "top_p: must be in (0, 1]")
    assert from_value_error(ValueError("no field here")).param is None


@pytest.mark.parametrize(
    ("message", "status", "param"),
    [
        ("logit_bias: token ids must be between 0 and 9", 400, "logit_bias"),
        ("RuntimeError happened", 500, None),
    ],
)
def test_engine_messages(message: str, status: int, param: str | None) -> None:
    error = from_engine(message)
    assert (error.status, error.param, error.message) == (status, param, message)
    assert "retry-after" not in error.headers


@pytest.mark.parametrize(
    ("refusal", "status", "code", "header"),
    [
        (Refusal("queue_full", 2.5, num_waiting=9), 429, "rate_limit_exceeded", "3"),
        (Refusal("class_full", 0.0, "batch", 9), 429, "rate_limit_exceeded", "1"),
        (Refusal("ttft_infeasible", 7.0, "fast", 0, 900.0, 50.0), 429, "rate_limit_exceeded", "7"),
        (Refusal("deadline_infeasible", 1.2, "doc", 0, 9.0, 5.0), 429, "rate_limit_exceeded", "2"),
        (Refusal("ttft_expired", 0.0, "fast", 0, 51.0, 50.0), 503, "deadline_expired", "1"),
        (Refusal("deadline_expired", 4.0, "deep", 0, 51.0, 50.0), 503, "deadline_expired", "4"),
    ],
)
def test_refusals_say_why_and_when_to_try_again(
    refusal: Refusal, status: int, code: str, header: str
) -> None:
    error = from_engine("whatever", refusal)
    assert (error.status, error.code, error.message) == (status, code, str(refusal))
    assert error.headers["retry-after"] == header
    details = msgspec.json.decode(error.body())["error"]["details"]
    assert details["reason"] == refusal.code
    assert details["retry_after_ms"] == float(error.headers["retry-after-ms"])
    assert details["retry_after_ms"] >= 1000.0
    assert details.get("estimate_ms", 0.0) == refusal.estimate_ms
    assert details.get("num_waiting", 0) == refusal.num_waiting


@pytest.mark.parametrize("code", REFUSAL_CODES)
def test_every_refusal_has_words(code: RefusalCode) -> None:
    refusal = Refusal(code, 1.0, "doc", 7, 120.4, 99.0)
    assert re.match(r"(overloaded|expired): [^{}]+$", str(refusal))
    assert ("7 requests" if "full" in code else "_ms=99") in str(refusal)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (invalid("a.0", "must be b"), 400, "invalid_request_error"),
        (unsupported("audio", "not supported"), 400, "invalid_request_error"),
        (retry_later("busy", "starting"), 503, "service_unavailable_error"),
        (engine_gone(EngineDeadError("killed")), 503, "service_unavailable_error"),
        (internal_error(), 500, "server_error"),
        (ApiError(404, "no"), 404, "not_found_error"),
        (ApiError(418, "odd"), 418, "server_error"),
    ],
)
def test_status_and_type(error: ApiError, status: int, kind: str) -> None:
    response = error.response()
    assert response.status_code == status
    assert response.media_type == "application/json"
    assert body(error)["type"] == kind


def test_headers_are_sent() -> None:
    assert retry_later("busy", "x").response().headers["retry-after"] == "1"


def test_what_was_sent_is_not_sent_back_at_length() -> None:
    assert len(invalid("role", "x" * 100_000).message) < 3000
    assert invalid("role", "must not be x").message == "role: must not be x"
