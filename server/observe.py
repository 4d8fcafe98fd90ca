"""Around every request: its id, its count, one line in the log when it has ended."""

import logging
import re
import time
import uuid
from collections.abc import Callable

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prelude.server.errors import CLIENT_CLOSED

logger = logging.getLogger(__name__)

_GOOD_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUIET = ("/health", "/metrics", "/page", "/live")


class ObserveMiddleware:
    """Pure ASGI, so that it never stands between a stream and its disconnect. Takes or makes
    ``x-request-id``; ``on_response(route, status)`` is told once per request."""

    def __init__(self, app: ASGIApp, on_response: Callable[[str, int], None]) -> None:
        self._app = app
        self._on_response = on_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        start_s = time.monotonic()
        status = CLIENT_CLOSED  # unless a response begins

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._on_response(route, status)
            _log(scope, status, time.monotonic() - start_s)


def _log(scope: Scope, status: int, seconds: float) -> None:
    quiet = scope["path"].startswith(_QUIET) and status != 500
    level = logging.DEBUG if quiet else logging.INFO
    if not logger.isEnabledFor(level):
        return
    record = {
        "request_id": scope["state"]["request_id"],
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "ms": round(seconds * 1e3, 3),
    }
    if (generation := scope["state"].get("generation")) is not None:
        record |= generation.log_fields()
    logger.log(level, "%s", msgspec.json.encode(record).decode())
