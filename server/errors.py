"""Errors as OpenAI's clients expect them: a status and a body with message, type, param, code; at
Anthropic's paths as theirs do.

Everything that can go wrong with a request becomes an ``ApiError``; one place turns it into a
response, or into the last event of a stream that has already begun.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from prelude.client.client import EngineDeadError
from prelude.logs import about
from prelude.types.errors import Refusal

RETRY_AFTER_S = 1
_MAX_MESSAGE = 2000  # characters; what was sent may be quoted, and is not sent back at length
CLIENT_CLOSED = 499  # for the access log and the metrics: nobody is there to read it

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "service_unavailable_error",
}

_ANTHROPIC_PATH = "/v1/messages"
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ApiError(Exception):
    """``param`` names the request field at fault, ``code`` is for programs, and so are ``details``,
    where there are any."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}..."
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        self.details = details

    def body(self) -> bytes:
        kind = _TYPES.get(self.status, "server_error")
        error: dict[str, object] = {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }
        if self.details is not None:
            error["details"] = self.details
        return msgspec.json.encode({"error": {**error, **_told(self)}})

    def response(self) -> Response:
        return Response(self.body(), self.status, self.headers, "application/json")

    def anthropic_body(self) -> bytes:
        kind = "api_error" if self.status >= 500 else "invalid_request_error"
        error = {"type": _ANTHROPIC_TYPES.get(self.status, kind), "message": self.message}
        return msgspec.json.encode({"type": "error", "error": error, **_told(self)})


def _told(error: ApiError) -> dict[str, str]:
    """A client is about to read ``error``: its code goes into the request's line in the log, and
    what names that line into the body."""
    if (now := about.get()) is None:
        return {}
    now.error = error.code or str(error.status)
    return {"request_id": now.request_id}


def error_response(path: str, error: ApiError) -> Response:
    """``error`` in the words of the API that ``path`` belongs to."""
    if not path.startswith(_ANTHROPIC_PATH):
        return error.response()
    return Response(error.anthropic_body(), error.status, error.headers, "application/json")


def request_id_headers(path: str) -> tuple[str, ...]:
    """Where the clients of the API that ``path`` belongs to look for a response's id."""
    return ("x-request-id", "request-id") if path.startswith(_ANTHROPIC_PATH) else ("x-request-id",)


def invalid(param: str, message: str, code: str | None = "invalid_value") -> ApiError:
    """A 400 that names the field."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Errors that name a field which another API's field was made into name the latter. ``names``
    has patterns of paths' beginnings, whole segments, with what they came from; the first match
    counts and what follows it stays."""
    try:
        yield
    except ApiError as error:
        old = error.param or ""
        for pattern, name in names.items():
            error.param, count = re.subn(rf"^{pattern}(?![^.])", name, old)
            if count:
                if error.message.startswith(f"{old}: "):
                    error.message = error.param + error.message.removeprefix(old)
                break
        else:
            error.param = old or None
        raise


def unsupported(param: str, message: str) -> ApiError:
    """A 400 for a field we know and do not honour."""
    return invalid(param, message, code="unsupported_parameter")


def from_value_error(error: ValueError) -> ApiError:
    """``field: what is wrong``, as the types below the server say it."""
    message = str(error)
    field = re.match(r"([a-z_]+): ", message)
    param = field.group(1) if field else None
    return ApiError(400, message, param=param, code="invalid_value")


def from_msgspec(error: msgspec.DecodeError) -> ApiError:
    """A broken body, or a field of the wrong type: ``... - at `$.messages[0].role```."""
    message = str(error)
    if not isinstance(error, msgspec.ValidationError):
        if message == "Input data was truncated":
            message = "it is empty, or ends too early"
        return ApiError(400, f"the body is not valid JSON: {message}", code="invalid_json")
    what, _, where = message.partition(" - at ")
    missing = re.match(r"Object missing required field `(\w+)`", what)
    path = re.search(r"`\$([^`]*)`", where)  # keys of mappings read "`key` in `$.field`"
    parts = [part for part in re.split(r"[.\[\]]+", path.group(1)) if part] if path else []
    if missing:
        parts.append(missing.group(1))
        return invalid(".".join(parts), "is required", code="missing_required_parameter")
    what = what.replace("`", "")
    if not parts:
        return ApiError(400, f"the body is not valid: {what}", code="invalid_type")
    return invalid(".".join(parts), what, code="invalid_type")


def engine_gone(error: EngineDeadError) -> ApiError:
    """Of a request that was lost with its engine, or came when there was none."""
    if error.restarting:
        text = f"the engine ended and is started again; send the request once more: {error}"
        return retry_later(text, "engine_restarted")
    return ApiError(503, f"the engine is not running: {error}", code="engine_dead")


def internal_error() -> ApiError:
    return ApiError(500, "internal error; the server's log has details", code="internal")


def retry_later(
    message: str, code: str, status: int = 503, retry_s: int = RETRY_AFTER_S
) -> ApiError:
    return ApiError(status, message, code=code, headers={"retry-after": str(retry_s)})


def refused(refusal: Refusal) -> ApiError:
    """429 for what was not let in. 503 for what was let in and expired: it is the server that was
    too slow, and 408 would say that of the client."""
    retry_s = max(refusal.retry_after_s, RETRY_AFTER_S)
    retry_ms = ceil(retry_s * 1e3)
    details = {
        "reason": refusal.code,
        "retry_after_ms": retry_ms,
        "service_class": refusal.service_class,
        "num_waiting": refusal.num_waiting,
        "estimate_ms": round(refusal.estimate_ms, 1),
        "limit_ms": refusal.limit_ms,
    }
    return ApiError(
        503 if refusal.is_expired else 429,
        str(refusal),
        code="deadline_expired" if refusal.is_expired else "rate_limit_exceeded",
        headers={"retry-after": str(ceil(retry_s)), "retry-after-ms": str(retry_ms)},
        details={name: value for name, value in details.items() if value},
    )


def from_engine(message: str, refusal: Refusal | None = None) -> ApiError:
    """What the engine said of a request it did not serve."""
    if refusal is not None:
        return refused(refusal)
    if re.match(r"[a-z_]+: ", message):
        return from_value_error(ValueError(message))
    return ApiError(500, message, code="engine_error")


async def on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(request.url.path, error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    message = {
        404: f"there is nothing at {request.url.path}{_meant(request)}",
        405: f"{request.method} is not allowed at {request.url.path}",
    }.get(error.status_code, error.detail)
    found = ApiError(error.status_code, message, headers=error.headers)
    return error_response(request.url.path, found)


def _meant(request: Request) -> str:
    """Clients add their path to an address that has no ``/v1``, or has one too many."""
    path = request.url.path
    known = {getattr(route, "path", None) for route in request.app.routes}
    tries = (f"/v1{path}", f"/v1{path.rpartition('/v1')[2]}")
    return next((f"; did you mean {one}?" for one in tries if one in known), "")


async def on_engine_dead(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineDeadError)
    return error_response(request.url.path, engine_gone(error))


async def on_client_gone(request: Request, error: Exception) -> Response:
    """The client left while it was still sending; nobody reads this."""
    return Response(status_code=CLIENT_CLOSED)


async def on_bug(request: Request, error: Exception) -> Response:
    """The traceback is logged by the server; the client learns only that it was our fault."""
    return error_response(request.url.path, internal_error())


EXCEPTION_HANDLERS = {
    ApiError: on_api_error,
    HTTPException: on_http_error,
    EngineDeadError: on_engine_dead,
    ClientDisconnect: on_client_gone,
    Exception: on_bug,
}
