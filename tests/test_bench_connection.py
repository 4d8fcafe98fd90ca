"""The HTTP client against a real socket: framing, connections kept and lost, time stamps."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from prelude.bench.connection import ConnectionLostError, HttpClient
from tests.bench_server import Answer, Chunk, Clock, Server


class Collector:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.status = 0
        self.parts: list[tuple[float, bytes]] = []

    def on_head(self, now: float, status: int) -> None:
        self.status = status

    def on_body(self, now: float, data: bytes) -> None:
        self.parts.append((now, data))

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.parts)


def client_of(server: Server, *, keepalive: bool = True, clock: Clock | None = None) -> HttpClient:
    return HttpClient(
        server.base_url, api_key="secret", keepalive=keepalive, clock=clock or Clock()
    )


async def post(client: HttpClient, body: bytes = b"{}") -> Collector:
    sink = Collector()
    await client.send(client.render("POST", "/completions", body), sink)
    return sink


def whole(body: bytes = b"answer", status: int = 200) -> Answer:
    return Answer(status=status, body=body)


async def test_a_whole_answer() -> None:
    async with Server(lambda _: whole(status=418)).running() as server:
        client = client_of(server)
        sink = await post(client, b'{"a": 1}')
        client.close()
    assert (sink.status, sink.body) == (418, b"answer")
    assert server.requests == [{"path": "/v1/completions", "a": 1}]


async def test_request_headers() -> None:
    async with Server(lambda _: whole()).running() as server:
        client = client_of(server, keepalive=False)
        await post(client)
    (headers,) = server.headers
    assert headers["authorization"] == "Bearer secret"
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert headers["host"] == server.base_url.split("/")[2]


async def test_bytes_are_stamped_as_they_come() -> None:
    clock = Clock()
    chunks = [Chunk(b"a", 0.25), Chunk(b"b", 0.5), Chunk(b"c")]
    async with Server(lambda _: Answer(chunks), clock).running() as server:
        client = client_of(server, clock=clock)
        sink = await post(client)
        client.close()
    assert sink.parts == [(100.25, b"a"), (100.75, b"b"), (100.75, b"c")]


async def test_a_connection_is_used_again() -> None:
    async with Server(lambda _: whole()).running() as server:
        client = client_of(server)
        for _ in range(5):
            assert (await post(client)).body == b"answer"
        client.close()
    assert server.num_connections == 1


async def test_without_keepalive_each_request_connects() -> None:
    async with Server(lambda _: whole()).running() as server:
        client = client_of(server, keepalive=False)
        for _ in range(3):
            await post(client)
    assert server.num_connections == 3


async def test_as_many_connections_as_requests_at_once() -> None:
    async with Server(lambda _: Answer([Chunk(b"a")])).running() as server:
        client = client_of(server)
        sinks = await asyncio.gather(*(post(client) for _ in range(8)))
        client.close()
    assert [sink.body for sink in sinks] == [b"a"] * 8
    assert server.num_connections == 8


async def test_a_body_may_end_with_the_connection() -> None:
    async with Server(
        lambda _: Answer([Chunk(b"ab"), Chunk(b"c")], close=True)
    ).running() as server:
        client = client_of(server)
        assert (await post(client)).body == b"abc"
        assert (await post(client)).body == b"abc"
    assert server.num_connections == 2


async def test_an_answer_cut_off_is_an_error() -> None:
    async with Server(lambda _: Answer([Chunk(b"a")], drop=True)).running() as server:
        client = client_of(server)
        with pytest.raises(ConnectionLostError, match="closed by the server"):
            await post(client)


async def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    answers = iter([whole(), Answer([Chunk(b"late")], drop=True), whole(b"new")])
    async with Server(lambda _: next(answers)).running() as server:
        client = client_of(server)
        await post(client)
        with pytest.raises(ConnectionLostError):
            await post(client)  # it had answered already: not sent twice
        assert (await post(client)).body == b"new"
        client.close()
    assert len(server.requests) == 3
    assert server.num_connections == 2


async def test_a_request_that_met_a_closing_connection_is_sent_again() -> None:
    answers = iter([whole(), Answer(status=0, drop=True), whole(b"again")])
    async with Server(lambda _: next(answers)).running() as server:
        client = client_of(server)
        await post(client)
        assert (await post(client)).body == b"again"
        client.close()
    assert (len(server.requests), server.num_connections) == (3, 2)


async def test_no_server_is_an_os_error() -> None:
    async with Server(lambda _: whole()).running() as server:
        client = client_of(server)
    with pytest.raises(OSError):
        await post(client)


async def test_cancelling_closes_the_connection() -> None:
    async with Server(lambda _: Answer([Chunk(b"a")], hang=True)).running() as server:
        client = client_of(server)
        sink = Collector()
        task = asyncio.create_task(client.send(client.render("POST", "/completions", b"{}"), sink))
        while not sink.parts:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not server.cancelled:
            await asyncio.sleep(0)


async def raw_server(reply: bytes) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


async def get(reply: bytes) -> Collector:
    async with await raw_server(reply) as server:
        port = server.sockets[0].getsockname()[1]
        client = HttpClient(f"http://127.0.0.1:{port}", api_key=None, keepalive=True, clock=Clock())
        sink = Collector()
        await client.send(client.render("GET", "/models"), sink)
        client.close()
        return sink


async def test_what_is_not_http_is_an_error() -> None:
    with pytest.raises(ConnectionLostError, match="not an HTTP"):
        await get(b"SSH-2.0-OpenSSH\r\n\r\n")


async def test_an_interim_response_is_skipped() -> None:
    sink = await get(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert (sink.status, sink.body) == (200, b"ok")


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://", "/v1"])
def test_addresses_it_cannot_use(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        HttpClient(url, api_key=None, keepalive=True, clock=Clock())


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("http://host:81/v1/", "host:81", "/v1/models"),
        ("http://host", "host", "/models"),
        ("https://user:pw@host/a/v1", "host", "/a/v1/models"),
        ("http://[::1]:8000/v1", "[::1]:8000", "/v1/models"),
    ],
)
def test_paths_and_hosts(url: str, host: str, path: str) -> None:
    client = HttpClient(url, api_key=None, keepalive=True, clock=Clock())
    lines = client.render("GET", "/models").decode().split("\r\n")
    assert lines[0] == f"GET {path} HTTP/1.1"
    assert f"Host: {host}" in lines
    assert not any(line.startswith(("Content", "Authorization")) for line in lines)


@pytest.mark.parametrize(
    "test",
    [
        test_a_whole_answer,
        test_bytes_are_stamped_as_they_come,
        test_a_connection_is_used_again,
        test_a_body_may_end_with_the_connection,
        test_an_answer_cut_off_is_an_error,
    ],
)
def test_the_same_on_the_loop_that_measures(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
