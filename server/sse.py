"""Server-sent events: chunks out as they come, an abort the moment the client is gone.

The response starts with its first chunk, so that a request the engine refuses still gets a
proper status; if the first chunk takes longer than a ping, it starts with the ping.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from prelude.server.errors import ApiError, error_response, internal_error
from prelude.server.limits import Ticket
from prelude.server.resume import Keeper

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
_PING = b": ping\n\n"
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-store",
    "x-accel-buffering": "no",
}


def error_event(error: ApiError) -> bytes:
    """How a stream of OpenAI's chunks that has begun says that it fails, and ends."""
    return b"data: " + error.body() + b"\n\n" + DONE


class SSEResponse(Response):
    """Sends each item of ``chunks`` (whole events, bytes) in one write.

    However it ends, ``chunks`` is closed and then ``on_close`` is called, once. A client that
    reads nothing for ``send_timeout_s`` counts as gone. ``late_headers`` is asked when the response
    starts, for what only its first chunk could tell; ``on_error`` writes the last event of a stream
    that fails after that.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        on_close: Callable[[], None],
        *,
        ping_s: float,
        send_timeout_s: float,
        late_headers: Callable[[], Mapping[str, str]] = dict,
        on_error: Callable[[ApiError], bytes] = error_event,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._late_headers = late_headers
        self._on_error = on_error
        self._chunks = chunks
        self._on_close = on_close
        self._ping_s = ping_s
        self._send_timeout_s = send_timeout_s
        self._started = False
        self._refused = False  # an error response went out instead
        self._lock = asyncio.Lock()
        self._begun_s: float | None = None  # since when a write has been under way
        self._last_write_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._keep_if_asked(scope)
        tasks = [
            asyncio.create_task(self._pump(scope, receive, send)),
            asyncio.create_task(disconnected(receive)),
            asyncio.create_task(self._watch(send)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await self._chunks.aclose()
            self._on_close()
        _raise_bugs(results)

    def _keep_if_asked(self, scope: Scope) -> None:
        """Let the stream outlive this connection: it is then followed like one that was resumed."""
        if scope.get("method") != "POST" or "last-event-id" in (headers := Headers(scope=scope)):
            return
        if headers.get("x-prelude-resume", "").lower() in ("1", "true"):
            keeper: Keeper = scope["app"].state.services.keeper
            owner = owner_of(scope)
            kept = keeper.keep(owner, self._chunks, self._on_close, self._on_error)
            if kept is not None:
                ticket: Ticket = scope["state"]["ticket"]
                ticket.disown()
                self._chunks, self._on_close = kept.follow(0)

    async def _pump(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async for chunk in self._chunks:
                await self._write(send, chunk)
        except ApiError as error:
            await self._fail(error, scope, receive, send)
        except Exception:
            logger.exception("a stream failed")
            await self._fail(internal_error(), scope, receive, send)
        if not self._refused:
            await self._write(send, b"", is_last=True)

    async def _fail(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._lock:
            if not self._started:
                self._refused = True
                await error_response(scope.get("path", ""), error)(scope, receive, send)
                return
        await self._write(send, self._on_error(error))

    async def _write(self, send: Send, data: bytes, *, is_last: bool = False) -> None:
        async with self._lock:
            if self._refused:
                return
            self._begun_s = begun_s = time.monotonic()
            if not self._started:
                self._started = True
                self.init_headers({**_HEADERS, **self._late_headers()})
                head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(head)
            await send({"type": "http.response.body", "body": data, "more_body": not is_last})
            self._last_write_s, self._begun_s = begun_s, None

    async def _watch(self, send: Send) -> None:
        """Comments while nothing is said; returns once a write was not taken for too long. One
        timer for all writes, for one each would be a fifth of what they cost."""
        limit_s = self._send_timeout_s
        self._last_write_s = time.monotonic()
        try:
            while True:
                now_s = time.monotonic()
                if self._begun_s is not None:
                    left_s = self._begun_s + limit_s - now_s
                    if left_s <= 0.0:
                        raise TimeoutError
                elif (left_s := self._last_write_s + self._ping_s - now_s) <= 0.0:
                    async with asyncio.timeout(limit_s):
                        await self._write(send, _PING)
                await asyncio.sleep(max(min(left_s, limit_s), 0.001))
        except TimeoutError:
            logger.warning("a client read nothing for %g s", limit_s)


def owner_of(scope: Scope) -> str:
    """Whose streams they are, and nobody else's: the name of the API key."""
    principal = scope.get("state", {}).get("principal")
    return principal.name if principal is not None else ""


async def disconnected(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _raise_bugs(results: list[BaseException | None]) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result
