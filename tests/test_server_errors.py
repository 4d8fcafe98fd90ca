"""Whatever goes wrong has a status, the field at fault and a code."""

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
        ("overloaded: 9 requests are waiting; retry later", 429, None),
        ("logit_bias: token ids must be between 0 and 9", 400, "logit_bias"),
        ("RuntimeError happened", 500, None),
    ],
)
def test_engine_messages(message: str, status: int, param: str | None) -> None:
    error = from_engine(message)
    assert (error.status, error.param, error.message) == (status, param, message)
    assert ("retry-after" in error.headers) == (status == 429)


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
