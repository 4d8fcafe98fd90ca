"""The streaming response against a scripted ASGI server: every way it can end."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import pytest

from prelude.server.errors import ApiError, retry_later
from prelude.server.sse import DONE, SSEResponse

Message = dict[str, Any]


class Peer:
    """The server's side of one connection; ``leave`` is the client hanging up."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.stuck = False
        self._gone = asyncio.Event()

    async def receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        self.sent.append(message)

    def leave(self) -> None:
        self._gone.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status


class Source:
    """Chunks to stream; an exception is raised in its place, ``None`` waits for ever."""

    def __init__(self, *items: bytes | Exception | None) -> None:
        self.items = items
        self.closed = 0
        self.ended = False

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            for item in self.items:
                if item is None:
                    await asyncio.Event().wait()
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield item
        finally:
            self.ended = True

    def close(self) -> None:
        self.closed += 1


async def run(
    source: Source,
    peer: Peer,
    *,
    until: Callable[[], bool] | None = None,
    ping_s: float = 60,
    send_timeout_s: float = 60,
) -> None:
    response = SSEResponse(source(), source.close, ping_s=ping_s, send_timeout_s=send_timeout_s)
    task = asyncio.create_task(response({"type": "http"}, peer.receive, peer.send))
    while until is not None and not until():
        await asyncio.sleep(0)
    if until is not None:
        peer.leave()
    await task


async def test_chunks_go_out_as_they_are_in_one_write_each() -> None:
    source, peer = Source(b"data: 1\n\ndata: 2\n\n", DONE), Peer()
    await run(source, peer)
    bodies = [message["body"] for message in peer.sent[1:]]
    assert bodies == [b"data: 1\n\ndata: 2\n\n", DONE, b""]
    headers = dict(peer.sent[0]["headers"])
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert headers[b"cache-control"] == b"no-cache, no-store"
    assert headers[b"x-accel-buffering"] == b"no"
    assert b"content-length" not in headers
    assert (source.closed, source.ended) == (1, True)


async def test_late_headers_are_asked_when_the_first_chunk_is_there() -> None:
    source, peer, told = Source(b"data: 1\n\n", DONE), Peer(), list[int]()

    def late() -> dict[str, str]:
        told.append(len(peer.sent))
        return {"server-timing": "ttft;dur=1"}

    response = SSEResponse(source(), source.close, ping_s=60, send_timeout_s=60, late_headers=late)
    assert told == []
    await response({"type": "http"}, peer.receive, peer.send)
    assert told == [0]
    headers = dict(peer.sent[0]["headers"])
    assert headers[b"server-timing"] == b"ttft;dur=1"
    assert headers[b"cache-control"] == b"no-cache, no-store"


async def test_an_error_before_the_first_chunk_has_its_own_status() -> None:
    source, peer = Source(retry_later("overloaded: full", "rate_limit_exceeded", 429)), Peer()
    await run(source, peer)
    assert peer.status == 429
    assert (b"retry-after", b"1") in peer.sent[0]["headers"]
    assert msgspec.json.decode(peer.body)["error"]["code"] == "rate_limit_exceeded"
    assert source.closed == 1


async def test_an_error_after_the_first_chunk_is_an_event_and_then_done() -> None:
    source, peer = Source(b"data: 1\n\n", ApiError(503, "gone", code="engine_dead")), Peer()
    await run(source, peer)
    assert peer.status == 200
    first, error, done, end = peer.body.split(b"\n\n")
    assert (first, done + b"\n\n", end) == (b"data: 1", DONE, b"")
    assert msgspec.json.decode(error.removeprefix(b"data: "))["error"]["code"] == "engine_dead"
    assert peer.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize("begun", [False, True])
async def test_a_bug_is_logged_and_hidden(begun: bool, caplog: pytest.LogCaptureFixture) -> None:
    items = [b"data: 1\n\n"] if begun else []
    source, peer = Source(*items, RuntimeError("secret")), Peer()
    await run(source, peer)
    assert peer.status == (200 if begun else 500)
    assert b"internal error" in peer.body
    assert b"secret" not in peer.body
    assert "secret" in caplog.text
    assert source.closed == 1


async def test_a_disconnect_ends_an_idle_stream_at_once() -> None:
    source, peer = Source(b"data: 1\n\n", None), Peer()
    await run(source, peer, until=lambda: len(peer.sent) == 2)
    assert (source.closed, source.ended) == (1, True)
    assert peer.body == b"data: 1\n\n"


async def test_a_disconnect_before_the_first_chunk() -> None:
    source, peer = Source(None), Peer()
    await run(source, peer, until=lambda: True)
    assert peer.sent == []
    assert source.closed == 1


async def test_an_idle_stream_is_begun_and_kept_alive_by_comments() -> None:
    source, peer = Source(None), Peer()
    await run(source, peer, until=lambda: peer.body.count(b": ping\n\n") == 2, ping_s=0.001)
    assert peer.status == 200
    assert peer.body.startswith(b": ping\n\n: ping\n\n")


async def test_no_comment_follows_a_refusal() -> None:
    source, peer = Source(ApiError(400, "no")), Peer()
    await run(source, peer, ping_s=0.0)
    assert b": ping" not in peer.body
    assert sum(message["type"] == "http.response.start" for message in peer.sent) == 1


@pytest.mark.parametrize("items", [(b"data: 1\n\n", None), (None,)])
async def test_a_client_that_reads_nothing_is_dropped(
    items: tuple[bytes | None, ...], caplog: pytest.LogCaptureFixture
) -> None:
    source, peer = Source(*items), Peer()
    peer.stuck = True
    await run(source, peer, ping_s=0.001, send_timeout_s=0.001)
    assert (source.closed, source.ended) == (1, True)
    assert "read nothing" in caplog.text


async def test_cancelling_the_request_closes_the_stream() -> None:
    source, peer = Source(b"data: 1\n\n", None), Peer()
    response = SSEResponse(source(), source.close, ping_s=60, send_timeout_s=60)
    task = asyncio.create_task(response({"type": "http"}, peer.receive, peer.send))
    while len(peer.sent) < 2:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (source.closed, source.ended) == (1, True)
