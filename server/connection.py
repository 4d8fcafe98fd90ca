"""What a connection may do before the application hears of it: how many there are, how long a
request may take to arrive, and how large its head may be. uvicorn with httptools bounds none of it.
"""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from prelude.conf.schema import ServerConfig
from prelude.server.errors import ApiError

_MAX_HEAD_BYTES = 32 * 1024
_MAX_HEADERS = 128
_WINDOW_BYTES = 64 * 1024
_CHUNK_OVERHEAD = 8  # a body in chunks of one byte is so much longer on the wire


@dataclass(frozen=True, slots=True)
class Bounds:
    """``read_timeout_s`` is what the head, and then each 64 KiB of the body, may take; no request
    is longer than ``max_request_bytes`` on the wire."""

    max_connections: int
    read_timeout_s: float
    max_request_bytes: int

    @classmethod
    def of(cls, config: ServerConfig) -> "Bounds":
        most = int(config.max_body_mib * 2**20) * _CHUNK_OVERHEAD + 2 * _MAX_HEAD_BYTES
        return cls(config.limits.max_connections, config.limits.read_timeout_s, most)


class _Refused(Exception):
    """Ends the parsing of a request."""


class BoundedProtocol(HttpToolsProtocol):
    """Make one with ``bounded``. A request that breaks its bounds gets 400, 408, 413 or 431 where
    nothing has been answered yet, and its connection is closed."""

    bounds: ClassVar[Bounds]

    _in_head = True
    _head_bytes = 0
    _request_bytes = 0
    _window_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _refusal: ApiError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.bounds.max_connections:
            self.transport = transport
            self._refuse(_error(503, "too many connections are open", "too_many_connections"))
            return
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._timer is None:
            self._watch()
        self._window_bytes += len(data)
        self._request_bytes += len(data)
        self._head_bytes += len(data) if self._in_head else 0
        super().data_received(data)
        if self._in_head and self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
        elif self._request_bytes > self.bounds.max_request_bytes:
            self._refuse(_error(413, "the request is too large", "request_too_large"))

    def on_headers_complete(self) -> None:
        self._in_head = False
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > _MAX_HEAD_BYTES or len(self.headers) > _MAX_HEADERS:
            self._refusal = _head_too_large()
            raise _Refused
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = self._request_bytes = 0
        self._unwatch()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or _error(400, "this is not valid HTTP", "invalid_http"))

    def _watch(self) -> None:
        self._window_bytes = 0
        self._timer = self.loop.call_later(self.bounds.read_timeout_s, self._look)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._window_bytes >= _WINDOW_BYTES or self._is_busy or self.flow.read_paused:
            self._watch()
        else:
            self._refuse(_error(408, "the request did not arrive in time", "request_timeout"))

    @property
    def _is_busy(self) -> bool:
        """True while a request that is here is being answered."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def _refuse(self, error: ApiError) -> None:
        self._unwatch()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        is_quiet = cycle is None or cycle.response_complete or not cycle.response_started
        # While requests wait in line, an earlier one's answer may have begun.
        if is_quiet and not self.pipeline:
            self.transport.write(_response(error))
        self.transport.close()


def bounded(config: ServerConfig) -> type[BoundedProtocol]:
    """The protocol class with the bounds of ``config``."""
    return type("Bounded", (BoundedProtocol,), {"bounds": Bounds.of(config)})


def _error(status: int, message: str, code: str) -> ApiError:
    return ApiError(status, message, code=code)


def _head_too_large() -> ApiError:
    limit = f"{_MAX_HEAD_BYTES // 1024} KiB and {_MAX_HEADERS} headers"
    return _error(431, f"the request's head is larger than {limit}", "head_too_large")


def _response(error: ApiError) -> bytes:
    body = error.body()
    head = (
        b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        % len(body)
    )
    return STATUS_LINE[error.status] + head + body
