"""Who comes back for a stream gets the rest of it, at whatever path it began, or gives it up."""

import re

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from prelude.server.errors import ApiError, error_response
from prelude.server.resume import Keeper
from prelude.server.sse import SSEResponse, owner_of

_EVENT_ID = re.compile(r"([A-Za-z0-9_-]{22})-(\d{1,9})")


class ResumeMiddleware:
    """Answers every POST that has a ``Last-Event-ID``; its body is not looked at. With
    ``X-Prelude-Resume: 0`` the stream ends at once, and the answer is 204. Pure ASGI, within what
    finds out who asks."""

    def __init__(
        self, app: ASGIApp, keeper: Keeper, *, ping_s: float, send_timeout_s: float
    ) -> None:
        self._app = app
        self._keeper = keeper
        self._ping_s = ping_s
        self._send_timeout_s = send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        headers = Headers(scope=scope) if is_post else Headers()
        event_id = headers.get("last-event-id")
        if event_id is None:
            await self._app(scope, receive, send)
            return
        try:
            gives_up = headers.get("x-prelude-resume", "").lower() in ("0", "false")
            response = self._response(event_id, owner_of(scope), gives_up=gives_up)
        except ApiError as error:
            await error_response(scope["path"], error)(scope, receive, send)
            return
        await response(scope, receive, send)

    def _response(self, event_id: str, owner: str, *, gives_up: bool) -> Response:
        match = _EVENT_ID.fullmatch(event_id)
        name, number = match.groups() if match else ("", "0")
        kept = self._keeper.find(name, int(number), owner)
        if gives_up:
            kept.end()
            return Response(status_code=204)
        chunks, on_close = kept.follow(int(number))
        return SSEResponse(
            chunks,
            on_close,
            ping_s=self._ping_s,
            send_timeout_s=self._send_timeout_s,
            on_error=kept.on_error,
        )
