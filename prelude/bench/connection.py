"""HTTP/1.1 for a load generator: the time of a byte is taken when the event loop hands it over,
before any task wakes up, and a streamed token costs microseconds, so that measuring many streams
from one core does not change what is measured.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, cast
from urllib.parse import SplitResult, urlsplit

import httptools

Clock = Callable[[], float]


class ConnectionLostError(ConnectionError):
    """The server closed the connection before its answer was complete."""


class Sink(Protocol):
    """Receives one response while it arrives; ``now`` is the clock at arrival, in seconds."""

    def on_head(self, now: float, status: int) -> None: ...
    def on_body(self, now: float, data: bytes) -> None: ...


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._sink: Sink | None = None
        self._done: asyncio.Future[None] | None = None
        self._now = 0.0
        self.answered = False

    async def exchange(self, request: bytes, sink: Sink) -> None:
        """Send ``request`` and feed the answer to ``sink`` until it is complete."""
        assert self._transport is not None and self._done is None
        self._parser = httptools.HttpResponseParser(self)
        self._sink, self._done = sink, asyncio.get_running_loop().create_future()
        self.answered = self._framed = self._keep = False
        self._transport.write(request)
        try:
            await self._done
        finally:
            self._sink = self._done = None

    @property
    def reusable(self) -> bool:
        assert self._transport is not None
        return self._keep and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._now = self._clock()
        if self._done is None:
            return self.close()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionLostError(f"not an HTTP/1.1 response: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answered and not self._framed and exc is None:
            self.on_message_complete()
        self._fail(ConnectionLostError(str(exc) if exc else "closed by the server"))

    def on_header(self, name: bytes, _: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and self._sink is not None:
            self.answered = True
            self._sink.on_head(self._now, status)

    def on_body(self, body: bytes) -> None:
        if self._sink is not None:
            self._sink.on_body(self._now, body)

    def on_message_complete(self) -> None:
        if not self.answered:
            return
        self._keep = self._framed and self._parser.should_keep_alive()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, error: ConnectionLostError) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)


class HttpClient:
    """Requests to one server over as many connections as are wanted at once.

    ``keepalive`` reuses idle ones. Raises ``ValueError`` for an address it cannot use; requests
    raise ``OSError`` (which ``ConnectionLostError`` is).
    """

    def __init__(self, base_url: str, *, api_key: str | None, keepalive: bool, clock: Clock):
        self._url = _split(base_url)
        self._clock = clock
        self._keepalive = keepalive
        self._ssl = ssl.create_default_context() if self._url.scheme == "https" else None
        self._idle: list[Connection] = []
        host = self._url.netloc.rpartition("@")[2]
        lines = [f"Host: {host}", "User-Agent: prelude-bench", "Accept: */*"]
        lines += [f"Authorization: Bearer {api_key}"] if api_key else []
        lines += [] if keepalive else ["Connection: close"]
        self._headers = "\r\n".join(lines)

    def render(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The bytes of a request; ``path`` is appended to the base address."""
        head = f"{method} {self._url.path}{path} HTTP/1.1\r\n{self._headers}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + body

    async def send(self, request: bytes, sink: Sink) -> None:
        """One exchange. A kept connection that the server has closed meanwhile is replaced."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.reusable:
                continue
            try:
                return await self._exchange(connection, request, sink)
            except ConnectionLostError:
                if connection.answered:
                    raise
        await self._exchange(await self._connect(), request, sink)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _exchange(self, connection: Connection, request: bytes, sink: Sink) -> None:
        try:
            await connection.exchange(request, sink)
        except BaseException:
            connection.close()
            raise
        if self._keepalive and connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self) -> Connection:
        assert self._url.hostname is not None
        port = self._url.port or (443 if self._ssl else 80)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(self._clock), self._url.hostname, port, ssl=self._ssl
        )
        return connection


def _split(base_url: str) -> SplitResult:
    url = urlsplit(base_url.rstrip("/"))
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"base_url: must look like http://127.0.0.1:8000/v1, not {base_url!r}")
    return url
