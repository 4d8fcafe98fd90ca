"""Who comes back for a stream gets the rest of it, at whatever path it began."""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from prelude.server.errors import ApiError, error_response
from prelude.server.resume import Keeper
from prelude.server.sse import SSEResponse, owner_of

_EVENT_ID = re.compile(r"([A-Za-z0-9_-]{22})-(\d{1,9})")


class ResumeMiddleware:
    """Answers every POST that has a ``Last-Event-ID``; its body is not looked at. Pure ASGI, within
    what finds out who asks."""

    def __init__(
        self, app: ASGIApp, keeper: Keeper, *, ping_s: float, send_timeout_s: float
    ) -> None:
        self._app = app
        self._keeper = keeper
        self._ping_s = ping_s
        self._send_timeout_s = send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        event_id = Headers(scope=scope).get("last-event-id") if is_post else None
        if event_id is None:
            await self._app(scope, receive, send)
            return
        try:
            response = self._response(event_id, owner_of(scope))
        except ApiError as error:
            await error_response(scope["path"], error)(scope, receive, send)
            return
        await response(scope, receive, send)

    def _response(self, event_id: str, owner: str) -> SSEResponse:
        match = _EVENT_ID.fullmatch(event_id)
        name, number = match.groups() if match else ("", "0")
        kept = self._keeper.find(name, int(number), owner)
        chunks, on_close = kept.follow(int(number))
        return SSEResponse(
            chunks,
            on_close,
            ping_s=self._ping_s,
            send_timeout_s=self._send_timeout_s,
            on_error=kept.on_error,
        )
