"""Around every request: its id, its count, its span, one line in the log when it has ended."""

import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prelude.logs import About, Fields, about
from prelude.server.errors import (
    CLIENT_CLOSED,
    error_response,
    internal_error,
    request_id_headers,
)
from prelude.server.tracing import Tracer

logger = logging.getLogger(__name__)

_GOOD_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUIET = ("/health", "/metrics", "/page", "/live")
_MAX_PATH = 256


class ObserveMiddleware:
    """Pure ASGI, so that it never stands between a stream and its disconnect. Takes or makes
    ``x-request-id``; ``on_response(route, status, error)`` is told once per request."""

    def __init__(
        self,
        app: ASGIApp,
        on_response: Callable[[str, int, str | None], None],
        tracer: Tracer | None = None,
    ) -> None:
        self._app = app
        self._on_response = on_response
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        now = About(_request_id(scope))
        # Stays set: the server above us logs what went wrong in this task after we have ended.
        about.set(now)
        scope.setdefault("state", {})["request_id"] = now.request_id
        start_s = time.monotonic()
        status = CLIENT_CLOSED  # unless a response begins

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name in request_id_headers(scope["path"]):
                    headers[name] = now.request_id
                headers.setdefault("server-timing", _total(start_s))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            # Answered here, where the answer still gets its id; then the server logs what it was.
            now.error = "internal"
            if status == CLIENT_CLOSED:
                bug = error_response(scope["path"], internal_error())
                await bug(scope, receive, send_with_id)
            raise
        finally:
            self._on_response(route_of(scope), status, now.error)
            if self._tracer is not None:
                self._tracer.record(scope, status, start_s)
            _log(scope, status, time.monotonic() - start_s, now)


def route_of(scope: Scope) -> str:
    """The path's pattern: a label must not be something that clients can make up."""
    return getattr(scope.get("route"), "path", "unmatched")


def is_quiet(scope: Scope) -> bool:
    """What machines and pages ask for again and again."""
    path: str = scope["path"]
    return path.startswith(_QUIET)


def _total(start_s: float) -> str:
    """For answers that have no better ``Server-Timing``: errors, and those not generated."""
    return f"total;dur={(time.monotonic() - start_s) * 1e3:.3f}"


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex


def _log(scope: Scope, status: int, seconds: float, now: About) -> None:
    level = logging.DEBUG if is_quiet(scope) and status != 500 else logging.INFO
    if not logger.isEnabledFor(level):
        return
    state = scope["state"]
    record = Fields(
        request_id=now.request_id,
        method=scope["method"],
        path=scope["path"][:_MAX_PATH],
        status=status,
        ms=round(seconds * 1e3, 3),
    )
    if (principal := state.get("principal")) is not None and principal.name:
        record["key"] = principal.name
    if now.error is not None:
        record["error"] = now.error
    if (generation := state.get("generation")) is not None:
        record |= generation.log_fields()
    logger.log(level, record)
