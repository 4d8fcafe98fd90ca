"""Clients that leave or stop reading, shutting down, and bugs: each request still ends once."""

import asyncio
from typing import Any

import pytest

from prelude.types.request import TokenEvent
from prelude.types.wire import Abort
from tests.fakes import until
from tests.scripted_server import error_of, ids, open_stream, scripted, silent_peer
from tests.server_harness import ANSWER, Engine, Gate, parse_events, says, serving
from tests.text_samples import byte_level


@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnect_frees_the_sequence(stream: bool) -> None:
    gate = Gate()
    engine = Engine(says(byte_level(), ANSWER, forever=True), gate, max_len=10_000)
    async with serving(engine) as server:
        gate.allow(5)
        if stream:
            response = await open_stream(server)
            await anext(response.aiter_bytes())
            await response.aclose()
        else:
            task = asyncio.create_task(server.chat())
            await server.until(lambda: server.client.stats.num_running == 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await server.until(lambda: server.services.lifecycle.num_open == 0)
        gate.open()
        await server.until(lambda: server.client.stats.num_running == 0)
        assert server.client.stats.num_blocks_referenced == 0
        assert server.client.num_streams == 0
        assert server.client.stats.wasted_tokens > 0
        text = (await server.http.get("/metrics")).text
        assert 'finished_reason="abort",model_name="test-model"} 1.0' in text


async def test_a_disconnect_while_queued() -> None:
    gate = Gate()
    async with serving(Engine(gate=gate, max_seqs=1)) as server:
        first = asyncio.create_task(server.chat())
        await server.until(lambda: server.client.num_streams == 1)
        second = asyncio.create_task(open_stream(server))
        await server.until(lambda: server.client.num_streams == 2)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await server.until(lambda: server.client.num_streams == 1)
        gate.open()
        assert (await first).status_code == 200


async def test_idle_streams_are_kept_alive() -> None:
    async with scripted(ping_s=0.01) as (server, transport):
        response = await open_stream(server)
        assert response.status_code == 200
        lines = response.aiter_lines()
        assert await anext(lines) == ": ping"
        uid = transport.requests[0].uid
        transport.events(TokenEvent(uid, 0, ids("Hello"), "length"))
        rest = [line async for line in lines]
        assert 'data: {"id":' in "".join(rest)
        assert rest[-2] == "data: [DONE]"


async def test_a_client_that_stops_reading_is_dropped() -> None:
    """A megabyte of text into a socket that nobody reads: the request is aborted, not buffered."""
    async with scripted(send_timeout_s=0.05) as (server, transport):
        peer = silent_peer(server)
        uid = (await transport.submitted()).uid
        chunk = ids("word ") * 200
        while Abort(uid) not in transport.sent:
            transport.events(TokenEvent(uid, 0, chunk))
            await asyncio.sleep(0.001)
        assert server.client.num_streams == 0
        peer.close()


async def test_a_client_that_leaves_within_its_body_is_no_bug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as server:
        host, port = server.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n{")
        await writer.drain()
        writer.close()
        counted = f'route="/tokenize",status="{499}"}} 1.0'
        while counted not in (await server.http.get("/metrics")).text:
            pass
        assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_draining_lets_streams_finish_and_refuses_new_ones() -> None:
    async with scripted() as (server, transport):
        task = asyncio.create_task(open_stream(server))
        uid = (await transport.submitted()).uid
        transport.events(TokenEvent(uid, 0, ids("Hello")))
        response = await task
        drain = asyncio.create_task(server.services.lifecycle.drain(1000))
        await asyncio.sleep(0)
        ready = await server.http.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json() == {"status": "draining", "open": 1}
        refused = await server.chat()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutdown"
        transport.events(TokenEvent(uid, 0, ids(" world"), "length"))
        events = parse_events(await response.aread())
        assert events[-1] == "[DONE]"
        assert events[-2]["choices"][0]["finish_reason"] == "length"
        await drain


@pytest.mark.parametrize("num_prompts", [1, 2])
async def test_what_does_not_finish_in_time_gets_an_error_and_an_end(num_prompts: int) -> None:
    async with scripted() as (server, transport):
        body = {"prompt": ["x"] * num_prompts, "stream": True}
        request = server.http.build_request("POST", "/v1/completions", json=body)
        task = asyncio.create_task(server.http.send(request, stream=True))
        uid = (await transport.submitted(num_prompts)).uid
        transport.events(TokenEvent(uid, 0, ids("Hello")))
        response = await task
        whole = asyncio.create_task(server.chat())
        await transport.submitted(num_prompts + 1)
        await server.services.lifecycle.drain(0)
        error = error_of(await response.aread())
        assert (error["code"], error["message"]) == ("shutdown", "the server is shutting down")
        assert (await whole).status_code == 503
        await until(lambda: Abort(uid) in transport.sent)


async def test_events_that_pile_up_become_one_chunk() -> None:
    async with scripted() as (server, transport):
        task = asyncio.create_task(open_stream(server))
        uid = (await transport.submitted()).uid
        words = ["Hello", " there", ", world"]
        transport.events(*(TokenEvent(uid, 0, ids(word)) for word in words))
        response = await task
        transport.events(TokenEvent(uid, 0, [], "length"))
        events = parse_events(await response.aread())
        contents = [e["choices"][0]["delta"].get("content") for e in events[:-1]]
        assert contents == ["", "".join(words), None]


async def test_a_bug_is_a_500_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as server:

        def broken(*args: Any) -> None:
            raise RuntimeError("secret")

        monkeypatch.setattr(server.client, "submit", broken)
        response = await server.chat()
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal"
        assert "secret" not in response.text
        assert "secret" in caplog.text
