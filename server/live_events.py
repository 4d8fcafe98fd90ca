"""GET /live/events: server-sent events, one ``history`` and then snapshot after snapshot."""

from starlette.requests import Request
from starlette.responses import Response

from prelude.server.services import services_of
from prelude.server.sse import SSEResponse


async def live_events(request: Request) -> Response:
    services = services_of(request)
    return SSEResponse(
        services.live.watch(),
        lambda: None,
        ping_s=services.config.server.ping_s,
        send_timeout_s=services.config.server.send_timeout_s,
    )
