"""What a connection may do: sizes and times of requests, and how many connections there are."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from prelude.server.connection import BoundedProtocol
from tests.server_harness import Harness, serving, test_config

HEAD = b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@asynccontextmanager
async def bounded(**limits: Any) -> AsyncIterator[Harness]:
    config = test_config()
    for name, value in limits.items():
        setattr(config.server.limits, name, value)
    async with serving(config=config) as server:
        yield server


class Raw:
    """A socket, and what comes back on it until it is closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, server: Harness) -> "Raw":
        host, _, port = server.url.removeprefix("http://").partition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def rest(self) -> tuple[int, str]:
        """Status and code of the error that ended the connection; 0 if none was said."""
        try:
            data = await self.reader.read()
        except ConnectionResetError:
            return 0, ""
        finally:
            self.writer.close()
        if not data:
            return 0, ""
        head, _, body = data.partition(b"\r\n\r\n")
        assert b"connection: close" in head
        return int(head.split()[1]), json.loads(body)["error"]["code"]

    async def send(self, data: bytes) -> "Raw":
        self.writer.write(data)
        await self.writer.drain()
        return self


def connections(server: Harness) -> list[BoundedProtocol]:
    return list(server.server.server_state.connections)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"x-long: " + b"a" * 40_000 + b"\r\n\r\n",
        HEAD + b"x-long: " + b"a" * 40_000,
        HEAD + b"x: y\r\n" * 200 + b"\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * 60_000,
        b"\r\n" * 20_000,
    ],
)
async def test_a_head_that_is_too_large(head: bytes) -> None:
    async with bounded() as server:
        raw = await Raw.to(server)
        assert await (await raw.send(head)).rest() == (431, "head_too_large")
        assert (await server.http.get("/health")).status_code == 200


async def test_what_is_no_http() -> None:
    async with bounded() as server:
        raw = await Raw.to(server)
        assert await (await raw.send(b"\x16\x03\x01\x02\x00\x01")).rest() == (400, "invalid_http")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /tok",
        HEAD,
        HEAD + b"content-length: 100\r\n\r\n{",
        HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
)
async def test_a_request_that_does_not_arrive_is_not_waited_for(sent: bytes) -> None:
    async with bounded(read_timeout_s=0.05) as server:
        raw = await (await Raw.to(server)).send(sent)
        assert await raw.rest() == (408, "request_timeout")
        await server.until(lambda: server.services.limits.report("")["open"] == 0)
        assert await server.http.get("/health")


async def test_a_drop_now_and_then_is_not_arriving() -> None:
    async with bounded(read_timeout_s=0.1) as server:
        raw = await (await Raw.to(server)).send(HEAD + b"content-length: 10000\r\n\r\n")
        ended = asyncio.create_task(raw.rest())
        while not ended.done():
            raw.writer.write(b" ")
            await asyncio.sleep(0)
        assert (await ended)[0] in (0, 408)


async def test_what_arrives_fast_enough_may_take_long() -> None:
    """64 KiB in each window, told to the protocol as if time passed."""
    async with bounded(read_timeout_s=1000.0) as server:
        size = 20 * 65_536
        raw = await (await Raw.to(server)).send(HEAD + b"content-length: %d\r\n\r\n" % size)
        await server.until(lambda: len(connections(server)) == 1)
        (protocol,) = connections(server)
        sent = 0
        while sent < size:
            await raw.send(b" " * 65_536)
            sent += 65_536
            await server.until(lambda: protocol._window_bytes >= 65_536 or protocol._timer is None)
            if protocol._timer is not None:
                protocol._look()
                assert not protocol.transport.is_closing()
        answer = await raw.reader.readuntil(b"\r\n")
        assert b"400" in answer  # spaces are no JSON; but it was read to its end
        raw.writer.close()


async def test_a_stream_is_not_a_request_that_is_late() -> None:
    """While an answer is on its way nothing is awaited from the client."""
    from tests.server_harness import Engine, Gate

    gate, config = Gate(), test_config()
    config.server.limits.read_timeout_s = 1000.0
    async with serving(Engine(gate=gate), config=config) as server:
        body = b'{"prompt": "the fox", "stream": true}'
        head = HEAD.replace(b"/tokenize", b"/v1/completions")
        raw = await Raw.to(server)
        await raw.send(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        await server.until(lambda: server.client.num_streams == 1)
        (protocol,) = connections(server)
        assert protocol._timer is None
        await raw.send(HEAD + b"content-length: 100\r\n\r\n{")  # the next one, begun already
        await server.until(lambda: protocol._timer is not None)
        gate.open()
        assert b"[DONE]" in await raw.reader.readuntil(b"[DONE]")
        raw.writer.close()


async def test_a_body_in_tiny_pieces_is_bounded_on_the_wire() -> None:
    config = test_config(max_body_mib=0.01)
    async with serving(config=config) as server:
        raw = await Raw.to(server)
        await raw.send(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        trailers = b"0\r\n" + b"x-trailer: " + b"a" * 400_000
        try:
            await raw.send(trailers)
            status, _ = await raw.rest()
        except ConnectionError:
            status = 413
        assert status in (0, 413)
        assert (await server.http.get("/health")).status_code == 200


async def test_so_many_connections_and_no_more() -> None:
    async with bounded(max_connections=3) as server:
        held = [await Raw.to(server) for _ in range(3)]
        await server.until(lambda: len(connections(server)) == 3)
        refused = await Raw.to(server)
        assert await refused.rest() == (503, "too_many_connections")
        held[0].writer.close()
        await server.until(lambda: len(connections(server)) == 2)
        assert (await server.http.get("/health")).status_code == 200
        for one in held[1:]:
            one.writer.close()


async def test_requests_one_after_the_other_on_one_connection() -> None:
    async with bounded(read_timeout_s=1000.0) as server:
        raw = await Raw.to(server)
        body = b'{"prompt": "x"}'
        one = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
        await raw.send(one * 3)
        for _ in range(3):
            head = await raw.reader.readuntil(b"\r\n\r\n")
            assert b"200 OK" in head
            (size,) = [int(n.split()[1]) for n in head.splitlines() if b"content-length" in n]
            await raw.reader.readexactly(size)
        raw.writer.close()


async def test_no_refusal_stands_in_the_middle_of_an_earlier_answer() -> None:
    """Requests may be sent before the ones before them are answered, and so may garbage."""
    from tests.server_harness import Engine, Gate

    gate = Gate()
    async with serving(Engine(gate=gate)) as server:
        body = b'{"prompt": "x", "stream": true}'
        first = HEAD.replace(b"/tokenize", b"/v1/completions")
        raw = await (await Raw.to(server)).send(
            first + b"content-length: %d\r\n\r\n" % len(body) + body
        )
        gate.allow(3)
        assert b"200 OK" in await raw.reader.readuntil(b"data: ")
        await raw.send(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n\x00 garbage\r\n\r\n")
        assert b"HTTP/1.1" not in await raw.reader.read()
        gate.open()
        await server.until(lambda: server.services.lifecycle.num_open == 0)
        raw.writer.close()
